/** Bob's station in a process of its own, with nothing in it but what Bob's KME has. Its parent says over IPC where to connect. */
import { connect, type Socket } from 'node:net'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { runBob } from '../../src/link/drivers/bb84/bob-station.ts'
import { createMemoryAuthenticationLedger } from '../link/memory-authentication-ledger.ts'

export interface BobOrders {
  readonly profile: Bb84Profile
  readonly slotsPerBurst: number
  readonly linkId: string
  readonly photonsPort: number
  readonly classicalPort: number
  readonly preSharedHex: string
}

const open = (port: number): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('error', reject)
    socket.once('connect', () => resolve(socket))
  })

/** What the parent sends later: kept, so that a search of the memory has something to find. */
const kept: unknown[] = []

process.once('message', (orders: BobOrders) => {
  process.on('message', (planted: { readonly hex: string }) => {
    kept.push(Buffer.from(planted.hex, 'hex'))
    process.send?.({ kept: kept.length })
  })
  // The process stays: it is to be looked at.
  serve(orders).catch(() => {})
})

const serve = async (orders: BobOrders): Promise<void> => {
  const ledger = createMemoryAuthenticationLedger()
  await ledger.add('pre-shared', SecretBytes.take(Buffer.from(orders.preSharedHex, 'hex')))
  await runBob(
    {
      linkId: orders.linkId as LinkId,
      profile: orders.profile,
      slotsPerBurst: orders.slotsPerBurst,
      connectPhotons: () => open(orders.photonsPort),
      connectClassical: () => open(orders.classicalPort),
      ledger,
      streams: () => systemRandom,
      wanted: () => Promise.resolve(),
      deliver: () => {},
      report: () => {},
      clock: systemClock,
    },
    new AbortController().signal,
  )
}
