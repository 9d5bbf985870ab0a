/** A clock that stands still until moved, and a place on disk that goes away. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { PkiParts } from '../../src/pki/authorities.ts'

export class ManualClock implements Clock {
  #nowMs: number
  constructor(nowMs: number) {
    this.#nowMs = nowMs
  }
  nowMs(): number {
    return this.#nowMs
  }
  monotonicMs(): number {
    return this.#nowMs
  }
  advance(durationMs: number): void {
    this.#nowMs += durationMs
  }
  /** Sleeping moves the clock. */
  sleep(durationMs: number): Promise<void> {
    this.advance(durationMs)
    return Promise.resolve()
  }
}

/** TLS compares certificates with the machine's clock, so tests that shake hands start from it. */
export const partsAt = (nowMs: number): PkiParts & { readonly clock: ManualClock } => ({
  clock: new ManualClock(nowMs),
  random: systemRandom,
})

/** Runs `work` in a directory that is removed after it. */
export const inTemporaryDirectory = async <T>(work: (dir: string) => Promise<T>): Promise<T> => {
  const dir = await mkdtemp(join(tmpdir(), 'kme-pki-'))
  try {
    return await work(dir)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}
