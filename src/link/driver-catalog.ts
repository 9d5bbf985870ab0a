/** From a link's configuration to its driver. A new device is one file in drivers/ and one line here. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import type { Bb84Profile } from '../bb84/profile.ts'
import type { AuthenticationLedger } from './authentication-ledger.ts'
import type { ConnectionTls } from './drivers/bb84/classical-connection.ts'
import { createBb84Driver } from './drivers/bb84-driver.ts'
import { createTcpDriver } from './drivers/tcp-driver.ts'
import type { LinkDriver } from './link.ts'

interface Address {
  readonly host: string
  readonly port: number
}

export interface TcpSettings extends Address {
  readonly id: LinkId
  readonly driver: 'tcp'
  readonly creditBlocks: number
}

export interface Bb84Settings {
  readonly id: LinkId
  readonly driver: 'bb84'
  readonly peer: KmeId
  readonly role: 'alice' | 'bob'
  readonly profile: Bb84Profile
  readonly slotsPerBurst: number
  readonly photons: Address
  readonly classical: Address
}

/** What the configuration says of a link's device. */
export type DriverSettings = TcpSettings | Bb84Settings

export interface DriverParts {
  readonly clock: Clock
  readonly random: Random
  readonly tls: () => ConnectionTls
  readonly ledgerOf: (linkId: LinkId) => AuthenticationLedger
}

const CONNECT_TIMEOUT_MS = 3000
const IDLE_TIMEOUT_MS = 15_000

export const createDriver = (link: DriverSettings, parts: DriverParts): LinkDriver => {
  switch (link.driver) {
    case 'tcp':
      return createTcpDriver({
        host: link.host,
        port: link.port,
        linkId: link.id,
        creditBlocks: link.creditBlocks,
        connectTimeoutMs: CONNECT_TIMEOUT_MS,
        idleTimeoutMs: IDLE_TIMEOUT_MS,
        clock: parts.clock,
        random: parts.random,
      })
    case 'bb84': {
      const { id, peer, role, profile, slotsPerBurst, photons, classical } = link
      return createBb84Driver({
        settings: { linkId: id, peerKmeId: peer, role, profile, slotsPerBurst, photons, classical },
        ledger: parts.ledgerOf(id),
        tls: parts.tls,
      })
    }
  }
}
