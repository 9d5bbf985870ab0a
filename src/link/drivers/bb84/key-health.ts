/** Health tests of what a station holds (docs/bb84.md): of the sifted key, where a stuck source or an uneven detector shows, and of the
 *  final key. One failure stops the link for good: it says that a source or a program is broken, nothing about secrecy. */
import { createHealthTest, type HealthTest } from '../../../bb84/health-tests.ts'
import { HealthTestFailed } from './station.ts'

export type KeyHealth = Readonly<Record<'sifted' | 'final', HealthTest>>

export const createKeyHealth = (): KeyHealth => ({ sifted: createHealthTest(), final: createHealthTest() })

/** @throws HealthTestFailed. */
export const requireHealthyKey = (health: KeyHealth, kind: keyof KeyHealth, bits: Uint8Array, bitCount: number): void => {
  const alarm = health[kind].examine(bits, bitCount)
  if (alarm === undefined) return
  throw new HealthTestFailed(`the ${alarm.failed} test of the ${kind} key failed: a random source or a detector is broken`)
}
