/** What went wrong, what was expected, and the remedy: as the server's errors say it. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    readonly value: string,
    readonly expected: string,
    readonly remedy: string,
  ) {
    super(`${value} ${expected} ${remedy}`);
  }
}
