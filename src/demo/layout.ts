/** Names, ports and files of the demo network: a contract, since scripts outside this repository use them.
 *  Three KMEs in a line, kme-a - kme-b - kme-c. alice and mallory are homed at kme-a, bob at kme-b, carol at kme-c; mallory may
 *  share keys with nobody. Each of the two links has an emulated pair of QKD devices.
 *
 *  Ports, added to the base port: SAE API 1 to 3, peer API 11 to 13, admin API 21 to 23, PostgreSQL 31, devices 41 to 44, control of
 *  the emulated devices 45 and 46, classical wire of a link 47 and 48. */
import { join } from 'node:path'

export const DEFAULT_BASE_PORT = 8440
const HIGHEST_OFFSET = 48
export const BASE_PORT_MAX = 65_535 - HIGHEST_OFFSET

export type KmeName = 'kme-a' | 'kme-b' | 'kme-c'
export type SaeName = 'alice' | 'bob' | 'carol' | 'mallory'
export type LinkName = 'a-b' | 'b-c'

export const kmeNames: readonly KmeName[] = ['kme-a', 'kme-b', 'kme-c']

export const saes: readonly { readonly name: SaeName; readonly home: KmeName; readonly sharesWith: readonly SaeName[] }[] = [
  { name: 'alice', home: 'kme-a', sharesWith: ['bob', 'carol'] },
  { name: 'bob', home: 'kme-b', sharesWith: ['alice', 'carol'] },
  { name: 'carol', home: 'kme-c', sharesWith: ['alice', 'bob'] },
  { name: 'mallory', home: 'kme-a', sharesWith: [] },
]

export interface DemoLink {
  readonly id: LinkName
  /** Alice's station, then Bob's. */
  readonly ends: readonly [KmeName, KmeName]
  /** Process of the quantum channel's emulator. */
  readonly channel: string
  /** Service of the emulated devices in docker-compose.yml. */
  readonly devices: string
}

export const links: readonly DemoLink[] = [
  { id: 'a-b', ends: ['kme-a', 'kme-b'], channel: 'channel-ab', devices: 'devices-ab' },
  { id: 'b-c', ends: ['kme-b', 'kme-c'], channel: 'channel-bc', devices: 'devices-bc' },
]

/** Where each party of a demo is reached. */
export interface Ports {
  readonly sae: number
  readonly peer: number
  readonly admin: number
}

export const portsOf = (basePort: number, kme: KmeName): Ports => {
  const number = kmeNames.indexOf(kme) + 1
  return { sae: basePort + number, peer: basePort + 10 + number, admin: basePort + 20 + number }
}

export const postgresPort = (basePort: number): number => basePort + 31

const indexOf = (link: LinkName): number => links.findIndex(({ id }) => id === link)

/** Ports of the two devices of a link, in the order of its ends. */
export const devicePorts = (basePort: number, link: LinkName): readonly [number, number] => {
  const first = basePort + 41 + 2 * indexOf(link)
  return [first, first + 1]
}

/** Where the emulator of a link takes orders. */
export const controlPort = (basePort: number, link: LinkName): number => basePort + 45 + indexOf(link)

/** Where the stations of a link talk about what they measured. */
export const classicalPort = (basePort: number, link: LinkName): number => basePort + 47 + indexOf(link)

export const allPorts = (basePort: number): readonly number[] => [
  ...kmeNames.flatMap((kme) => Object.values(portsOf(basePort, kme)) as number[]),
  postgresPort(basePort),
  ...links.flatMap(({ id }) => [...devicePorts(basePort, id), controlPort(basePort, id), classicalPort(basePort, id)]),
]

export type DemoFiles = ReturnType<typeof filesOf>

/** @param directory absolute. */
export const filesOf = (directory: string) => ({
  directory,
  ca: join(directory, 'ca.pem'),
  adminToken: join(directory, 'admin-token'),
  pids: join(directory, 'pids.json'),
  lock: join(directory, 'demo.lock'),
  /** Authorities, the index of what they issued, the certificates of the KMEs. */
  pki: join(directory, 'pki'),
  issued: join(directory, 'pki', 'issued'),
  tokenKey: join(directory, 'pki', 'admin-token.key'),
  tokenPublicKey: join(directory, 'pki', 'admin-token.pub.pem'),
  secrets: join(directory, 'secrets'),
  logs: join(directory, 'logs'),
  postgres: join(directory, 'postgres'),
  config: (kme: KmeName) => join(directory, `${kme}.yaml`),
  passphrase: (kme: KmeName) => join(directory, 'secrets', `${kme}.passphrase`),
  /** Of a link; both ends read it. */
  authenticationKey: (link: LinkName) => join(directory, 'secrets', `${link}.authentication-key`),
  databaseUrl: (kme: KmeName) => join(directory, 'secrets', `${kme}.database-url`),
  log: (name: string) => join(directory, 'logs', `${name}.log`),
})

/** PostgreSQL database of a KME. */
export const databaseOf = (kme: KmeName): string => kme.replace('-', '_')
