/** How far this machine's clock and another one may be apart: certificates, tokens and retry windows depend on it. */
import type { Report } from './check.ts'

const WARN_MS = 2000
const FAIL_MS = 60_000

/** @param differenceMs this clock minus the other.
 *  @param uncertaintyMs half of the round trip and of the other clock's step. */
export const reportClock = (other: string, differenceMs: number, uncertaintyMs: number, report: Report): void => {
  const surelyApartMs = Math.max(0, Math.abs(differenceMs) - uncertaintyMs)
  const seconds = (Math.abs(differenceMs) / 1000).toFixed(1)
  const what = `this machine's clock is ${seconds} s ${differenceMs > 0 ? 'ahead of' : 'behind'} that of ${other}`
  const todo = 'run a time service (chrony, systemd-timesyncd) on both machines'
  if (surelyApartMs > FAIL_MS) report('fail', what, todo)
  else if (surelyApartMs > WARN_MS) report('warn', what, todo)
  else report('ok', `this machine and ${other} agree on the time`)
}
