/** What tests of watching and replenishing pools share: pools whose levels a test sets, and what was told about them. */
import type { Alarms } from '../../src/alarms/alarms.ts'
import type { AuditEvent, AuditLog } from '../../src/audit/audit.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import type { KeyPool, PoolLevel, PoolMarks } from '../../src/key-pool/key-pool.ts'
import { createPoolWatch, type RunningPoolWatch } from '../../src/key-pool/watch-pools.ts'
import { FakeClock, levelOf, poolsWith } from '../admin/admin-world.ts'

export const OWN = 'kme-a' as KmeId
export const PEER = 'kme-b' as KmeId
export const OTHER = 'kme-c' as KmeId
export const MARKS: PoolMarks = { criticalWatermark: 25, lowWatermark: 100, highWatermark: 1000 }
export const LEND_FLOOR = 64
export const silent = createLogger('silent')

/** Lets everything that waits for nothing but its turn go on. */
export const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i += 1) await new Promise((resolve) => setImmediate(resolve))
}

export interface PoolWorld {
  readonly clock: FakeClock
  readonly pool: KeyPool
  readonly watch: RunningPoolWatch
  /** Names of the alarms that are raised, with their texts. */
  readonly alarms: Alarms & { readonly raised: Map<string, string>; readonly severities: Map<string, string> }
  readonly audit: Pick<AuditLog, 'append'> & { readonly events: AuditEvent[] }
  set(level: Partial<PoolLevel> & { peerKmeId: KmeId }): void
  /** Time passes, and everything that waits for it goes on. */
  pass(seconds: number): Promise<void>
}

export const createPoolWorld = (expected: readonly KmeId[] = []): PoolWorld => {
  const clock = new FakeClock()
  const levels: PoolLevel[] = []
  const pool = poolsWith(levels)
  const raised = new Map<string, string>()
  const severities = new Map<string, string>()
  const events: AuditEvent[] = []
  return {
    clock,
    pool,
    watch: createPoolWatch({
      kmeId: OWN,
      pool,
      expected,
      marksOf: () => MARKS,
      lendFloorKeys: () => LEND_FLOOR,
      clock,
      log: silent,
    }),
    alarms: {
      raised,
      severities,
      raise: (name, severity, text) => {
        raised.set(name, text)
        severities.set(name, severity)
      },
      clear: (name) => void raised.delete(name),
    },
    audit: { events, append: async (event) => void events.push(event) },
    set: (level) => {
      const at = levels.findIndex(({ peerKmeId }) => peerKmeId === level.peerKmeId)
      levels[at < 0 ? levels.length : at] = { ...(levels[at] ?? levelOf(level.peerKmeId, 0, 0)), ...level }
    },
    pass: async (seconds) => {
      for (let s = 0; s < seconds; s += 1) {
        clock.advanceMs(1000)
        await settle()
      }
    },
  }
}
