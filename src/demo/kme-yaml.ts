/** The configuration file of a demo KME, as text for people to read. */
import { linkPortsOf, portsOf, type DemoLayout, type DemoLink, type KmeName } from './layout.ts'

/** The demo's links: fibre and detectors of this profile. */
export const PROFILE = 'metro'
/** So slow that two links leave most of a core to others; more links share what two may cost. */
const PULSE_RATE_MAX_HZ = 3_000_000
export const pulseRateHz = ({ links }: DemoLayout): number => Math.round(PULSE_RATE_MAX_HZ * Math.min(1, 2 / links.length))
/** Reached some minutes after the first start; from then on the links rest until somebody uses keys. */
const STORED_MAX = 50_000
/** Relayed keys kept ready; each costs one key of every link on its way. */
const RELAYED_MIN = 512
/** Ports of the devices in docker-compose.yml, where every pair has an address of its own. */
const CONTAINER_DEVICE_PORTS = [7001, 7002] as const

export interface KmeYamlOptions {
  readonly layout: DemoLayout
  readonly kme: KmeName
  readonly basePort: number
  /** Listeners take every address, and others are found by the service names of docker-compose.yml. */
  readonly containers: boolean
}

/** @returns YAML; every path in it is seen from the demo directory. */
export const kmeYaml = ({ layout, kme, basePort, containers }: KmeYamlOptions): string => {
  const { kmes, saes, links } = layout
  const own = portsOf(basePort, kme)
  const address = containers ? '0.0.0.0' : '127.0.0.1'
  const identity = `certificate: pki/issued/kme-${kme}.pem, privateKey: pki/issued/kme-${kme}.key`
  const ownLinks = links.filter(({ ends }) => ends.includes(kme))
  const others = kmes.filter((other) => other !== kme)
  const distant = others.filter((other) => !ownLinks.some(({ ends }) => ends.includes(other)))

  const peerLine = (other: KmeName): string =>
    `  - { id: ${other}, url: 'https://${containers ? other : '127.0.0.1'}:${portsOf(basePort, other).peer}' }`
  const linkLines = (link: DemoLink): string => {
    const { id, ends, devices } = link
    const { photons, classical } = linkPortsOf(basePort, link)
    const end = ends[0] === kme ? 0 : 1
    const peer = ends[1 - end]
    if (containers) return `  - { id: ${id}, peer: ${peer}, driver: tcp, host: ${devices}, port: ${CONTAINER_DEVICE_PORTS[end]} }`
    return `  - id: ${id}
    peer: ${peer}
    driver: bb84
    role: ${end === 0 ? 'alice' : 'bob'}
    profile: { name: ${PROFILE}, pulseRateHz: ${pulseRateHz(layout)} }
    photons: { port: ${photons[end]} } # the quantum channel
    classical: { port: ${classical} } # where Alice waits for Bob
    authenticationKeyFile: secrets/${id}.authentication-key`
  }

  return `# ${kme} of the demo network. "kme demo" writes this file at every start: to try something else, copy it.
# Paths are seen from the folder of this file. "kme config check --config FILE" finds mistakes.

kme:
  id: ${kme}

log:
  level: info
  requests: true # one line per request
${containers ? '\n# The database: DATABASE_URL in the environment.\n' : `\ndatabase:\n  urlFile: secrets/${kme}.database-url\n`}
# Keys are stored encrypted. The root key is derived from this passphrase: without it nobody reads them.
custody:
  passphraseFile: secrets/${kme}.passphrase

# For applications (SAEs): ETSI GS QKD 014. A client certificate of the SAE authority is required.
saeApi:
  host: ${address}
  port: ${own.sae}
  tls: { ${identity}, clientCa: pki/sae-ca.pem, clientCrl: pki/sae-ca.crl.pem }

# For other KMEs.
peerApi:
  host: ${address}
  port: ${own.peer}
  tls: { ${identity}, ca: pki/kme-ca.pem, crl: pki/kme-ca.crl.pem }

# For people and for Prometheus. Tokens are checked with this public key.
adminApi:
  host: ${address}
  port: ${own.admin}
  tls: { ${identity} }
  tokenKey: pki/admin-token.pub.pem

keys:
  maxStored: ${STORED_MAX} # per peer KME; a full pool lets the devices wait

peers:
${others.map(peerLine).join('\n')}

# QKD links. ${
    containers
      ? 'The driver speaks to an emulated device (docs/device-protocol.md).'
      : 'This KME distils the key of a simulated BB84 link itself (docs/bb84.md).'
  }
links:
${ownLinks.map(linkLines).join('\n')}

# KMEs without a link between them share keys that travel over the one in the middle (docs/relay.md).
relay:
  enabled: true
${
  distant.length === 0
    ? ''
    : `
pools:
  perPeer:
${distant.map((other) => `    - { peer: ${other}, lowWatermark: ${RELAYED_MIN} } # below it keys are relayed`).join('\n')}
`
}
# Applications, the KME each one fetches its keys from, and whom it may share keys with. Read when one is new to the database;
# afterwards the admin API decides.
saes:
${saes.map(({ name, home, sharesWith }) => `  - { id: ${name}, kme: ${home}, sharesWith: [${sharesWith.join(', ')}] }`).join('\n')}
`
}
