/** The system's clock running faster, so that a time-out of a minute is over in a second. */
import { systemClock, type Clock } from '../../src/kernel/clock.ts'

export const fastClock = (factor: number): Clock => ({
  nowMs: () => systemClock.nowMs(),
  monotonicMs: () => systemClock.monotonicMs() * factor,
  sleep: (durationMs, signal) => systemClock.sleep(durationMs / factor, signal),
})
