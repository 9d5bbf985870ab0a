import { describe, expect, it } from '@jest/globals'
import { createReadiness } from '../../src/admin/readiness.ts'
import { FakeClock } from './admin-world.ts'

describe('readiness', () => {
  it('asks a probe once for a flood of questions (F114), and again when the answer is old', async () => {
    const clock = new FakeClock()
    let asked = 0
    const readiness = createReadiness({ probes: [{ name: 'database', check: async () => ++asked > 0 }], clock, maxAgeMs: 1000 })
    await Promise.all(Array.from({ length: 1000 }, () => readiness.results()))
    await readiness.results()
    expect(asked).toBe(1)
    clock.advanceMs(999)
    await readiness.results()
    expect(asked).toBe(1)
    clock.advanceMs(1)
    expect(await readiness.results()).toEqual([{ name: 'database', ok: true }])
    expect(asked).toBe(2)
  })

  it('counts a probe that hangs as failed, and asks again later', async () => {
    const clock = new FakeClock()
    let hangs = true
    const readiness = createReadiness({
      probes: [{ name: 'database', check: () => (hangs ? new Promise<boolean>(() => undefined) : true) }],
      clock,
      deadlineMs: 2000,
    })
    const results = readiness.results()
    clock.advanceMs(2000)
    expect(await results).toEqual([{ name: 'database', ok: false }])
    hangs = false
    clock.advanceMs(1000)
    expect(await readiness.results()).toEqual([{ name: 'database', ok: true }])
  })
})
