/** Names, ports and files of the demo network: a contract, since scripts outside this repository use them.
 *  Without options three KMEs in a line, kme-a - kme-b - kme-c. alice and mallory are homed at kme-a, bob at kme-b, carol at kme-c;
 *  mallory may share keys with nobody. More sites go on with kme-d and dave; in a ring the last KME has a link with the first.
 *
 *  Ports, added to the base port: SAE API 1 to 9, peer API 11 to 19, admin API 21 to 29, PostgreSQL 31, quantum channels of the first
 *  two links 41 to 44, their control 45 and 46, their classical wires 47 and 48; from 51 on the same four of each further link. */
import { join } from 'node:path'

export const DEFAULT_BASE_PORT = 8440
const HIGHEST_OFFSET = 78
export const BASE_PORT_MAX = 65_535 - HIGHEST_OFFSET

export type KmeName = `kme-${string}`
export type SaeName = string
export type LinkName = `${string}-${string}`

/** What the network looks like. */
export interface DemoShape {
  readonly sites: number
  /** Whether the last KME has a link with the first. */
  readonly ring: boolean
}

export const DEFAULT_SHAPE: DemoShape = { sites: 3, ring: false }

export interface DemoSae {
  readonly name: SaeName
  readonly home: KmeName
  readonly sharesWith: readonly SaeName[]
}

export interface DemoLink {
  readonly id: LinkName
  /** From 0 on. */
  readonly index: number
  /** Alice's station, then Bob's. */
  readonly ends: readonly [KmeName, KmeName]
  /** Process of the quantum channel's emulator. */
  readonly channel: string
  /** Service of the emulated devices in docker-compose.yml. */
  readonly devices: string
}

export interface DemoLayout {
  readonly shape: DemoShape
  readonly kmes: readonly KmeName[]
  readonly saes: readonly DemoSae[]
  readonly links: readonly DemoLink[]
}

/** One at each KME, in the order of the sites. */
const RESIDENTS = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank', 'grace', 'heidi', 'ivan'] as const
const SITES_MIN = 2
export const SITES_MAX = RESIDENTS.length

/** @throws Error that says which shapes there are. */
export const layoutOf = (shape: DemoShape): DemoLayout => {
  const { sites, ring } = shape
  if (sites < SITES_MIN || sites > SITES_MAX) throw new Error(`A demo network has ${SITES_MIN} to ${SITES_MAX} sites.`)
  if (ring && sites < 3) throw new Error('A ring has three sites or more.')
  const residents = RESIDENTS.slice(0, sites)
  const letters = residents.map((_, site) => String.fromCharCode(97 + site))
  const pairs = letters.slice(1).map((letter, before) => [letters[before] as string, letter] as const)
  if (ring) pairs.push([letters[0] as string, letters[sites - 1] as string])
  return {
    shape,
    kmes: letters.map((letter): KmeName => `kme-${letter}`),
    saes: [
      ...residents.map((name, site): DemoSae => {
        return { name, home: `kme-${letters[site]}`, sharesWith: residents.filter((other) => other !== name) }
      }),
      { name: 'mallory', home: 'kme-a', sharesWith: [] },
    ],
    links: pairs.map(([one, other], index): DemoLink => {
      const ends = [`kme-${one}`, `kme-${other}`] as const
      return { id: `${one}-${other}`, index, ends, channel: `channel-${one}${other}`, devices: `devices-${one}${other}` }
    }),
  }
}

/** Where each party of a demo is reached. */
export interface Ports {
  readonly sae: number
  readonly peer: number
  readonly admin: number
}

export const portsOf = (basePort: number, kme: KmeName): Ports => {
  const number = kme.charCodeAt('kme-'.length) - 96
  return { sae: basePort + number, peer: basePort + 10 + number, admin: basePort + 20 + number }
}

export const postgresPort = (basePort: number): number => basePort + 31

export interface LinkPorts {
  /** Where the quantum channel expects the stations, in the order of the link's ends. */
  readonly photons: readonly [number, number]
  /** Where the emulator of the quantum channel takes orders. */
  readonly control: number
  /** Where the stations talk about what they measured. */
  readonly classical: number
}

export const linkPortsOf = (basePort: number, { index }: Pick<DemoLink, 'index'>): LinkPorts => {
  if (index < 2) {
    const first = basePort + 41 + 2 * index
    return { photons: [first, first + 1], control: basePort + 45 + index, classical: basePort + 47 + index }
  }
  const first = basePort + 51 + 4 * (index - 2)
  return { photons: [first, first + 1], control: first + 2, classical: first + 3 }
}

export const allPorts = (basePort: number, { kmes, links }: DemoLayout): readonly number[] => [
  ...kmes.flatMap((kme) => Object.values(portsOf(basePort, kme)) as number[]),
  postgresPort(basePort),
  ...links.flatMap((link) => {
    const { photons, control, classical } = linkPortsOf(basePort, link)
    return [...photons, control, classical]
  }),
]

export type DemoFiles = ReturnType<typeof filesOf>

/** @param directory absolute. */
export const filesOf = (directory: string) => ({
  directory,
  ca: join(directory, 'ca.pem'),
  adminToken: join(directory, 'admin-token'),
  pids: join(directory, 'pids.json'),
  lock: join(directory, 'demo.lock'),
  /** A DemoShape as JSON. */
  shape: join(directory, 'shape.json'),
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
