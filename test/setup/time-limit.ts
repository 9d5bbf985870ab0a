/** A machine that does other things at the same time is slower by far, and tests are run on such machines: there only what takes ten times as
 *  long fails, which is to say what hangs or waits for something else. `npm run test:time-limits` holds the product to its times themselves. */
const FACTOR = process.env['TEST_TIME_LIMITS'] === 'exact' ? 1 : 10

/** How long a test lets something take that the product promises within `promisedMs`. */
export const timeLimitMs = (promisedMs: number): number => FACTOR * promisedMs
