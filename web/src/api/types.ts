// Stand-in until `npm run types` has been run against the server: the two answers of the shell.
export interface LayerInfo {
  number: number;
  name: string;
  components: number;
  channels: number;
  signs: string;
  first: number;
  crop: string;
  without_examples: number;
}
export interface ModelInfo {
  number: number;
  name: string;
  model: string;
  data: string;
  embedder: string;
  text: boolean;
  relevance: boolean;
  thumbnails: boolean;
  components: number;
  samples: number;
  dim: number;
  layers: LayerInfo[];
  classes: number;
  fingerprint: string;
}
export interface SearchHit {
  rank: number;
  row: number;
  layer: number;
  index: number;
  name: string;
  alignment: number;
  cosine: number;
  percentile: number;
  label: string | null;
}
export interface SearchAnswer {
  query: string;
  searched: number;
  mode: "vector" | "label";
  notice: string | null;
  hits: SearchHit[];
  cursor: string | null;
  probe: number | null;
}
