/** KeyStore in PostgreSQL. Every statement that decides about a key is hand-written SQL with parameters, checks its own
 *  row counts and carries its audit records; one file per part of a key's life. */
import type { Keyring } from '../custody/custody.ts'
import type { Database } from '../database/database.ts'
import { systemClock, type Clock } from '../kernel/clock.ts'
import type { AssignmentId, KmeId } from '../kernel/identifiers.ts'
import { systemRandom, type Random } from '../kernel/random.ts'
import type { KeyStore, PadStore, ReceivedKeyStore, ShareStore } from './key-store.ts'
import { blockMethods } from './prisma-blocks.ts'
import { expireMethods } from './prisma-expire.ts'
import { fetchMethods } from './prisma-fetch.ts'
import { holdMethods } from './prisma-hold.ts'
import { issueMethods } from './prisma-issue.ts'
import { lendMethods } from './prisma-lend.ts'
import { createBlockReader } from './prisma-open-blocks.ts'
import { padMethods } from './prisma-pads.ts'
import { receiveMethods } from './prisma-receive.ts'
import { settleMethods } from './prisma-settle.ts'
import { shareMethods } from './prisma-shares.ts'

export interface KeyStoreOptions {
  readonly database: Database
  readonly keyring: Keyring
  readonly kmeId: KmeId
  /** Size of the unit keys that blocks are cut into. */
  readonly unitSizeBits: number
  /** How long a request with openkme_request_id may be repeated. */
  readonly retryWindowS: number
  /** Whether keys of the fallback source may be shared with this peer; never if left out. */
  readonly acceptsFallback?: (peerKmeId: KmeId) => boolean
  /** A UUID of this process, new at each start. */
  readonly processId: string
  readonly clock?: Clock
  readonly random?: Random
}

export const createKeyStore = (options: KeyStoreOptions): KeyStore & PadStore & ReceivedKeyStore & ShareStore => {
  const reader = createBlockReader({ ...options, statements: options.database })
  const { acceptsFallback = () => false } = options
  const parts = { ...options, acceptsFallback, reader, working: new Set<AssignmentId>() }
  const clock = options.clock ?? systemClock
  return {
    ...blockMethods(parts),
    ...issueMethods(parts),
    ...settleMethods(parts),
    ...holdMethods(parts),
    ...receiveMethods({ ...parts, clock, random: options.random ?? systemRandom }),
    ...fetchMethods({ ...parts, clock }),
    ...lendMethods(parts),
    ...expireMethods(parts),
    ...padMethods(parts),
    ...shareMethods(parts),
  }
}
