/** A sentence of the server with the quotes of the page: 'word' becomes “word”. */
export function curly(text: string): string {
  return text.replace(/(^|[\s(,])'([^']+)'(?=$|[\s).,;:?!])/g, "$1“$2”");
}
