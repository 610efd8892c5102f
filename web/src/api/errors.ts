/** An error with value, expectation and remedy, as the server returns it. */
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
