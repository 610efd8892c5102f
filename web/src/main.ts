import { mount } from "svelte";

import App from "./App.svelte";
import { announceSettled } from "./api/settled";
import "./app.css";

const target = document.getElementById("app");
if (target) {
  mount(App, { target });
  announceSettled(target);
}
