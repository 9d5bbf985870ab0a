/** A clock whose time passes only while it is run, as fast as there is nothing to do: for simulations of many KMEs in one process. */
import type { Clock } from '../../src/kernel/clock.ts'

interface Sleeper {
  readonly atMs: number
  readonly order: number
  readonly wake: () => void
}

export class SimulatedClock implements Clock {
  #nowMs = Date.parse('2030-01-01T12:00:00Z')
  #order = 0
  /** A heap: the first is the next to wake. */
  readonly #sleepers: Sleeper[] = []

  nowMs(): number {
    return Math.floor(this.#nowMs)
  }
  monotonicMs(): number {
    return this.#nowMs
  }
  sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = (): void => {
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      signal?.addEventListener('abort', wake)
      this.#push({ atMs: this.#nowMs + Math.max(0, durationMs), order: (this.#order += 1), wake })
    })
  }
  /** Lets so much time pass, and everything happen that belongs into it. */
  async run(durationMs: number): Promise<void> {
    const endMs = this.#nowMs + durationMs
    await settled()
    while (this.#sleepers.length > 0 && this.#sleepers[0]!.atMs <= endMs) {
      this.#nowMs = this.#sleepers[0]!.atMs
      while (this.#sleepers.length > 0 && this.#sleepers[0]!.atMs <= this.#nowMs) this.#pop().wake()
      await settled()
    }
    this.#nowMs = endMs
  }

  #push(sleeper: Sleeper): void {
    const heap = this.#sleepers
    let i = heap.push(sleeper) - 1
    while (i > 0 && isBefore(sleeper, heap[(i - 1) >> 1]!)) {
      heap[i] = heap[(i - 1) >> 1]!
      i = (i - 1) >> 1
    }
    heap[i] = sleeper
  }
  #pop(): Sleeper {
    const heap = this.#sleepers
    const first = heap[0]!
    const last = heap.pop()!
    if (heap.length === 0) return first
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child += 1
      if (!isBefore(heap[child]!, last)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
    return first
  }
}

const isBefore = (one: Sleeper, other: Sleeper): boolean =>
  one.atMs === other.atMs ? one.order < other.order : one.atMs < other.atMs

/** Everything that waits for nothing but other code has happened. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
