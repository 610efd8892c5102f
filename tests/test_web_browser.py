"""The instruments of the browser tests: they see what they are there to see."""

from __future__ import annotations

import time

import pytest
from web_browser import Watched, axe

SCRIPTS = {
    "console: on purpose": "() => console.error('on purpose')",
    "page error: thrown": "() => { setTimeout(() => { throw new Error('thrown'); }); }",
    "request to another host: http://elsewhere.invalid/": (
        "() => { setTimeout(() => { location.href = 'http://elsewhere.invalid/'; }); }"
    ),
    "Content Security Policy": (
        "() => document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: '1'}))"
    ),
    "status of 404": "() => fetch('not-there')",
}


@pytest.mark.parametrize("fault", SCRIPTS)
def test_what_a_page_does_wrong_is_noticed(page_at, fault):
    page = page_at(allowed=("",))
    watched = Watched()
    watched.watch(page, page.url)
    page.evaluate(SCRIPTS[fault])
    until = time.monotonic() + 30
    while not [found for found in watched.left() if fault in found]:
        assert time.monotonic() < until, watched.faults
        page.wait_for_timeout(20)
    watched.allowed.append("^nothing like it$")
    assert watched.left() == watched.faults
    watched.allowed.append(".")
    assert watched.left() == []


def test_axe_finds_what_is_serious(page_at):
    page = page_at()
    assert axe(page) == []
    page.evaluate("() => document.querySelector('main').append(document.createElement('button'))")
    assert [found for found in axe(page) if found.startswith("critical: button-name: <button")]


def test_without_webgl_there_is_none(page_at):
    script = "() => !!document.createElement('canvas').getContext('webgl2')"
    assert page_at().evaluate(script)
    assert not page_at(webgl=False).evaluate(script)
