/**
 * The selected components in a link: their rows as base-36 differences, and runs as `first-length`.
 *
 * `a.3-4.1` are the rows 10, 13, 14, 15, 16, 17.
 */

/** Of more, the link keeps the path of the lasso, which is shorter. */
export const MOST_IN_LINK = 150;
/** More are not read from a link. */
const MOST_READ = 5000;

/** @param rows ascending. */
export function formatRows(rows: readonly number[]): string {
  const parts: string[] = [];
  let last = 0;
  for (let i = 0; i < rows.length; ) {
    let end = i;
    while (rows[end + 1] === rows[end]! + 1) end += 1;
    const first = (rows[i]! - last).toString(36);
    parts.push(end > i ? `${first}-${(end - i + 1).toString(36)}` : first);
    last = rows[end]!;
    i = end + 1;
  }
  return parts.join(".");
}

/** Read the rows; those that are no numbers are left out. */
export function readRows(text: string): number[] {
  const rows: number[] = [];
  let last = 0;
  for (const part of text.split(".")) {
    const match = /^([0-9a-z]{1,6})(?:-([0-9a-z]{1,4}))?$/.exec(part);
    if (!match) continue;
    const length = match[2] ? Number.parseInt(match[2], 36) : 1;
    last += Number.parseInt(match[1]!, 36);
    for (let i = 0; i < Math.min(length, MOST_READ); i++) rows.push(last + i);
    last += length - 1;
  }
  return rows.slice(0, MOST_READ);
}
