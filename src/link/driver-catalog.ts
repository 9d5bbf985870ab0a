/** From a link's configuration to its driver. A new device is one file in drivers/ and one line here. */
import type { Clock } from '../kernel/clock.ts'
import type { LinkId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import { createTcpDriver } from './drivers/tcp-driver.ts'
import type { LinkDriver } from './link.ts'

/** What the configuration says of a link's device. */
export interface DriverSettings {
  readonly id: LinkId
  readonly driver: 'tcp'
  readonly host: string
  readonly port: number
  readonly creditBlocks: number
}

const CONNECT_TIMEOUT_MS = 3000
const IDLE_TIMEOUT_MS = 15_000

export const createDriver = (link: DriverSettings, parts: { clock: Clock; random: Random }): LinkDriver =>
  createTcpDriver({
    host: link.host,
    port: link.port,
    linkId: link.id,
    creditBlocks: link.creditBlocks,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    idleTimeoutMs: IDLE_TIMEOUT_MS,
    ...parts,
  })
