/** One station of a BB84 link as a process of its own: the driver that a KME runs, worker thread and TLS included, with its
 *  authentication key in memory instead of a database. Its settings are a file; asked `figures` on standard input it answers with
 *  a line of JSON. */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { systemClock } from '../../src/kernel/clock.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { ConnectionTls } from '../../src/link/drivers/bb84/classical-connection.ts'
import type { StationSettings } from '../../src/link/drivers/bb84/station-worker.ts'
import { createBb84Driver } from '../../src/link/drivers/bb84-driver.ts'
import { createMemoryAuthenticationLedger } from '../../test/link/memory-authentication-ledger.ts'

export interface StationFile {
  readonly settings: StationSettings
  readonly tls: ConnectionTls
  /** Base64; the same at both ends. */
  readonly preSharedSecret: string
}

export interface StationFigures {
  readonly blocks: number
  /** Blocks that gave no key. */
  readonly noKey: number
  readonly disconnections: number
  /** Of the KME's clock, which goes on when the system's time is set. When the newest block was delivered; 0 before the first. */
  readonly newestMs: number
  /** Over all blocks: handed to the key pool, kept for authentication, sifted, disclosed, and n h(qber). */
  readonly secretBits: number
  readonly replenishBits: number
  readonly siftedBits: number
  readonly leakBits: number
  readonly shannonBits: number
  readonly rssBytes: number
  /** User and system, all threads, since the process began. */
  readonly cpuMs: number
}

const entropy = (q: number): number => (q <= 0 || q >= 1 ? 0 : -q * Math.log2(q) - (1 - q) * Math.log2(1 - q))
const total = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)

const { settings, tls, preSharedSecret } = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as StationFile
const ledger = createMemoryAuthenticationLedger()
await ledger.add('pre-shared', SecretBytes.take(Buffer.from(preSharedSecret, 'base64')))
const sums = { blocks: 0, noKey: 0, disconnections: 0, newestMs: 0, secretBits: 0, replenishBits: 0, siftedBits: 0 }
const leaks = { leakBits: 0, shannonBits: 0 }

const figures = (): StationFigures => {
  const { user, system } = process.cpuUsage()
  return { ...sums, ...leaks, rssBytes: process.memoryUsage.rss(), cpuMs: (user + system) / 1000 }
}

const stopping = new AbortController()
process.once('SIGTERM', () => stopping.abort())
process.once('SIGINT', () => stopping.abort())
const lines = createInterface({ input: process.stdin })
lines.on('line', () => console.log(JSON.stringify(figures())))
console.log('READY')

const driver = createBb84Driver({ settings, ledger, tls: () => tls })
const blocks = driver.blocks(stopping.signal, (event) => {
  if (event.kind === 'no-key') sums.noKey += 1
  if (event.kind === 'disconnected') sums.disconnections += 1
  if (event.kind !== 'connected') console.error(`${event.kind}: ${'reason' in event ? event.reason : ''}`)
})
for await (const { key, qber, statement, acknowledge } of blocks) {
  sums.blocks += 1
  sums.newestMs = systemClock.monotonicMs()
  sums.secretBits += key.lengthBytes * 8
  key.wipe()
  acknowledge()
  if (statement === undefined) continue
  const siftedBits = total(statement.nX)
  sums.siftedBits += siftedBits
  sums.replenishBits += statement.replenishBits
  leaks.leakBits += statement.leakBits
  leaks.shannonBits += siftedBits * entropy(qber ?? 0)
}
lines.close()
process.stdin.destroy()
