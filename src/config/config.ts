/** The one configuration file of a KME: read once, checked as a whole, frozen. It holds paths of secrets, never secrets,
 *  so it may be logged. Every fault is reported at once, each with its path. */
import { readFileSync } from 'node:fs'
import { dirname, isAbsolute, resolve } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { profileNamed, type Bb84Profile, type ProfileOverrides } from '../bb84/profile.ts'
import {
  parseFingerprint,
  parseKmeId,
  parseLinkId,
  parseSaeId,
  type KmeId,
  type LinkId,
  type SaeId,
} from '../kernel/identifiers.ts'
import { checkMarks, poolsSchema, settleMarks, type Marks } from './pool-marks.ts'

const identifier = <T extends string>(what: string, parse: (text: string) => T | undefined) =>
  z.string().transform((text, context): T => {
    const id = parse(text)
    if (id !== undefined) return id
    context.addIssue({ code: 'custom', message: `not a ${what}: 1 to 64 characters of A-Z a-z 0-9 . _ ~ : @ ! $ ' ( ) * + / -` })
    return z.NEVER
  })
const kmeId = identifier<KmeId>('KME ID', parseKmeId)
const saeId = identifier<SaeId>('SAE ID', parseSaeId)
const linkId = identifier<LinkId>('link ID', parseLinkId)
const port = z.int().min(0).max(65535)
/** Beyond a million bits it is no key but a file. */
const BITS_MAX = 1_048_576
const bits = z.int().min(8).max(BITS_MAX).multipleOf(8)
const host = z.string().min(1)

/** Nothing behind the port: the paths of the peer API are its own, and a user name would be a secret in this file. */
const ORIGIN = /^https:\/\/[^/?#@\\\s]+\/?$/
const AN_ORIGIN = 'expected https://host:port'
const origin = z
  .string({ error: (issue) => missing(issue) ?? AN_ORIGIN })
  .refine((text) => ORIGIN.test(text) && URL.canParse(text), AN_ORIGIN)

/** A query could hold a token, and this file holds no secrets. */
const ADDRESS = /^https:\/\/[^/?#@\\\s]+(\/[^?#\\\s]*)?$/
const AN_ADDRESS = 'expected https://host/path without user name and query'
const address = z
  .string({ error: (issue) => missing(issue) ?? AN_ADDRESS })
  .refine((text) => ADDRESS.test(text) && URL.canParse(text), AN_ADDRESS)

const listener = { host: host.default('127.0.0.1'), port }

const keys = z.strictObject({
  /** Default key size and the size of the unit keys a block is cut into. Equal at all KMEs of a network. */
  sizeBits: bits.default(256),
  minSizeBits: bits.default(64),
  maxSizeBits: bits.default(4096),
  maxPerRequest: z.int().min(1).max(1024).default(128),
  /** Most keys stored per peer KME; a full pool stops pulling from the link. */
  maxStored: z.int().min(1).max(100_000_000).default(100_000),
  /** Additional slave SAEs per request; 0 switches multicast off. */
  maxSaeIdCount: z.int().min(0).max(64).default(8),
  /** How long an issued key waits for its slave SAE. */
  heldForS: z.int().min(1).max(31_536_000).default(86_400),
  /** How long an enc_keys with openkme_request_id may be repeated for the same answer. */
  retryWindowS: z.int().min(1).max(3600).default(60),
  /** Keys kept ready for pairs of SAEs that are both homed at this KME. */
  localStored: z.int().min(0).max(1_000_000).default(2000),
  /** Keys a KME keeps for its own masters when the other end of a link asks for a loan. */
  lendFloor: z.int().min(0).default(64),
  /** A reservation whose fate the peer has not settled by then is burnt. */
  burnAfterS: z.int().min(1).max(86_400).default(600),
})

const pools = poolsSchema(kmeId)

const fingerprint = z.string().transform((text, context): string => {
  const parsed = parseFingerprint(text)
  if (parsed !== undefined) return parsed
  context.addIssue({ code: 'custom', message: 'not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons' })
  return z.NEVER
})

const peer = z.strictObject({
  id: kmeId,
  /** Origin of the peer API of that KME. */
  url: origin,
  deadlineMs: z.int().min(100).max(30_000).default(5000),
  /** `off` for a peer that does not speak sessions yet: messages go and are taken without seals. */
  sessions: z.enum(['required', 'off']).default('required'),
  /** Whether a QKD key is mixed into the keys of sessions. */
  mixQkdKey: z.enum(['off', 'prefer', 'require']).default('prefer'),
  /** SHA-256 of the certificates the peer may show. Any of the KME authority will do if left out. */
  certificateFingerprints: z.array(fingerprint).default([]),
  /** `approval`: nothing is said before an operator approved a certificate with `kme peer approve`. */
  firstContact: z.enum(['authority', 'approval']).default('authority'),
})

const tcpLink = z.strictObject({
  id: linkId,
  peer: kmeId,
  driver: z.literal('tcp'),
  host: host.default('127.0.0.1'),
  port: port.min(1),
  /** Blocks the device may send ahead of their acknowledgement. */
  creditBlocks: z.int().min(1).max(1024).default(16),
  /** Blocks with a higher quantum bit error rate are never used. 0.11 is where a BB84 key stops being secret. */
  qberMax: z.number().min(0).max(0.5).default(0.11),
})

/** The name an authority of another network gave a KME, in one of two places. */
const certificateName = z.union(
  [z.strictObject({ uri: z.string().min(1).max(256) }), z.strictObject({ commonName: z.string().min(1).max(64) })],
  { error: (issue) => missing(issue) ?? 'expected uri or commonName, one of them' },
)

const neighbour = z
  .strictObject({
    /** What this KME calls it; the KME of the SAEs that are homed behind it. */
    id: kmeId,
    /** What its certificate must bear. An OpenKME bears `urn:kme:kme:<id>`. */
    certificate: certificateName,
    /** Origin of its ETSI GS QKD 020 API. */
    url: origin,
    /** The only URL it may have acknowledgements sent to; that of the standard at `url` if left out. */
    callbackUrl: address.optional(),
    /** Sends keys to it without a callback, where it can do that. */
    synchronous: z.boolean().default(false),
    /** How long it has to relay keys to their targets. */
    deadlineMs: z.int().min(100).max(30_000).default(5000),
    /** Requests it may make. */
    requestsPerS: z.int().min(1).default(500),
    /** Keys it may send, void and acknowledge: no less than one request can send. */
    keysPerS: z.int().min(1024).default(10_000),
  })
  .transform(({ callbackUrl, ...rest }) => ({
    ...rest,
    callbackUrl: callbackUrl ?? `${new URL(rest.url).origin}/kmapi/v1/ext_keys/ack`,
  }))

const interworking = z.strictObject({
  ...listener,
  /** Origin under which neighbours reach this listener. */
  url: origin,
  tls: z.strictObject({
    certificate: z.string(),
    privateKey: z.string(),
    /** Authorities the neighbours' certificates may come from. */
    ca: z.string(),
    crl: z.string().optional(),
  }),
  neighbours: z.array(neighbour).max(64).default([]),
})

const probability = z.number().min(0).max(1)
/** A named profile, or one with some values replaced. What is wrong with the whole is said by the profile's own check. */
const bb84Profile = z
  .preprocess(
    (written) => (typeof written === 'string' ? { name: written } : written),
    z.strictObject({
      name: z.string(),
      distanceKm: z.number().optional(),
      attenuationDbPerKm: z.number().optional(),
      receiver: z
        .strictObject({
          efficiency: probability.optional(),
          darkCountProbability: probability.optional(),
          afterpulseProbability: probability.optional(),
          deadTimeNs: z.number().min(0).optional(),
        })
        .optional(),
      misalignment: probability.optional(),
      intensities: z.array(z.number()).optional(),
      intensityProbabilities: z.array(probability).optional(),
      keyBasisProbability: probability.optional(),
      pulseRateHz: z.number().optional(),
      blockBits: z.int().optional(),
      epsilonSecrecy: z.number().optional(),
      epsilonCorrectness: z.number().optional(),
    }),
  )
  .transform(({ name, ...overrides }, context): Bb84Profile => {
    try {
      return profileNamed(name, overrides as ProfileOverrides)
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message })
      return z.NEVER
    }
  })
const endpoint = z.strictObject({ host: host.default('127.0.0.1'), port: port.min(1) })

const bb84Link = z.strictObject({
  id: linkId,
  peer: kmeId,
  driver: z.literal('bb84'),
  /** Alice sends pulses, Bob measures them: one at each end. */
  role: z.enum(['alice', 'bob']),
  profile: bb84Profile,
  /** Pulses travel in bursts of this many time slots. */
  slotsPerBurst: z.int().min(1024).max(4_194_304).default(262_144),
  /** This end of the quantum channel: `kme channel-emulator`. */
  photons: endpoint,
  /** Where Alice's station listens for Bob's: the same at both ends. */
  classical: endpoint,
  /** Made with `kme link new-secret`; the same at both ends. */
  authenticationKeyFile: z.string(),
  qberMax: z.number().min(0).max(0.5).default(0.11),
})

const RELAY_HOPS_MAX = 16

const relayPolicy = {
  /** Over how many ways without a KME in common a block is split. */
  paths: z.int().min(1).max(4).optional(),
  /** Whether blocks are wrapped so that KMEs in between see nothing usable. */
  endToEnd: z.boolean().optional(),
  /** Most links that a block from here may pass; `relay.maxHops` if left out. */
  maxHops: z.int().min(2).max(RELAY_HOPS_MAX).optional(),
  /** KMEs that must not be on the way. */
  avoid: z.array(kmeId).optional(),
  /** If there: no others may be on the way. */
  only: z.array(kmeId).optional(),
}

const relay = z.strictObject({
  /** Whether this KME relays: for itself to peers without a link, and as a trusted node for others. */
  enabled: z.boolean().default(false),
  /** Keys of each link that are never used for relaying. */
  floorKeys: z.int().min(0).max(100_000_000).default(256),
  /** Keys in one relayed block. */
  blockKeys: z.int().min(1).max(4096).default(128),
  /** For one block, there and back. */
  deadlineMs: z.int().min(500).max(20_000).default(4000),
  ...relayPolicy,
  /** Most links that a block may pass, of those from here and of those that pass here. */
  maxHops: z.int().min(2).max(RELAY_HOPS_MAX).default(8),
  /** What is wanted for single peers. */
  perPeer: z.array(z.strictObject({ peer: kmeId, ...relayPolicy })).default([]),
  /** What is wanted for single pairs of SAEs, besides what is wanted for the peer. */
  pairs: z.array(z.strictObject({ master: saeId, slave: saeId, ...relayPolicy })).default([]),
  /** Ways an operator wants; several to one KME are tried in order. */
  routes: z.array(z.strictObject({ to: kmeId, via: z.array(kmeId).min(1).max(15) })).default([]),
})

const webhook = z.strictObject({
  url: address,
  /** File with the key notices are signed with: `whsec_` and base64. */
  secretFile: z.string(),
  /** Authorities the receiver's certificate may come from; those of Node.js unless told. */
  caFile: z.string().optional(),
})

const sae = z.strictObject({ id: saeId, kme: kmeId, sharesWith: z.array(saeId).default([]) })

const weight = z.number().positive().max(1000)
const share = {
  /** Keys of each pool that are always kept for it. */
  floorKeys: z.int().min(0).default(0),
  /** Its part of the fair shares and of new key, beside the others' weights. */
  weight: weight.default(1),
  /** Whether it may use the emergency reserve. */
  emergency: z.boolean().default(false),
}

const sharing = z.strictObject({
  /** The last so many keys of a pool are shared out among the SAEs that ask; 0 switches fair sharing off. */
  fairKeys: z.int().min(0).default(512),
  /** For so long after it asked an SAE has its fair share. */
  activeS: z.int().min(1).max(86_400).default(30),
  /** Keys of each pool that only SAEs marked with `emergency` may use. */
  emergencyKeys: z.int().min(0).default(0),
  /** SAEs with a share of their own. */
  saes: z.array(z.strictObject({ sae: saeId, ...share })).default([]),
  /** Pairs with a share of their own, apart from that of the master SAE. */
  pairs: z.array(z.strictObject({ master: saeId, slave: saeId, ...share })).default([]),
})

const OFF = "expected a number above 0, or 'off'"
const perS = z.union([z.number().positive().max(1_000_000), z.literal('off')], { error: (issue) => missing(issue) ?? OFF })
const burst = z.int().min(1).max(100_000_000)
/** Keys are of default size: a longer key counts as the units it is made of. */
const quota = {
  requestsPerS: perS.optional(),
  /** Requests that may come at once; as many as in a second if left out. */
  requestsBurst: burst.optional(),
  keysPerS: perS.optional(),
  keysBurst: burst.optional(),
  keysPerDay: z
    .union([z.int().min(1).max(Number.MAX_SAFE_INTEGER), z.literal('off')], { error: (issue) => missing(issue) ?? OFF })
    .optional(),
}
const defaultQuota = z.strictObject(quota)
const saeQuota = z.strictObject({ sae: saeId, ...quota })
const pairQuota = z.strictObject({ master: saeId, slave: saeId, ...quota })

const schema = z.strictObject({
  kme: z.strictObject({
    /** Unique in the QKD network; also in the SAN URI `urn:kme:kme:<id>` of this KME's certificate. */
    id: kmeId,
  }),
  log: z
    .strictObject({
      level: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
      /** One line per request. */
      requests: z.boolean().default(true),
    })
    .prefault({}),
  database: z
    .strictObject({
      /** File holding the PostgreSQL URL; the environment variable DATABASE_URL wins over it. */
      urlFile: z.string().optional(),
      connections: z.int().min(4).max(200).default(12),
      /** How long a request waits for a connection before it is answered 503. */
      connectDeadlineMs: z.int().min(500).max(30_000).default(2000),
    })
    .prefault({}),
  redis: z
    .strictObject({
      /** File holding the Redis URL; the environment variable REDIS_URL wins over it. Without either a KME runs as one process. */
      urlFile: z.string().optional(),
      /** Authority of the servers' certificates, for rediss://. */
      ca: z.string().optional(),
      /** Calls functions that an operator loaded, for a Redis user that may not send scripts. */
      useFunctions: z.boolean().default(false),
      commandDeadlineMs: z.int().min(50).max(5000).default(300),
    })
    .prefault({}),
  custody: z.strictObject({
    /** File whose whole content, less one final newline, is the passphrase the root key is derived from. */
    passphraseFile: z.string(),
    argon2MemoryKib: z.int().min(19_456).max(4_194_304).default(65_536),
    argon2Passes: z.int().min(1).max(32).default(3),
  }),
  saeApi: z.strictObject({
    ...listener,
    tls: z.strictObject({
      certificate: z.string(),
      privateKey: z.string(),
      /** Authority whose SAE certificates are accepted. */
      clientCa: z.string(),
      clientCrl: z.string().optional(),
      minVersion: z.enum(['TLSv1.2', 'TLSv1.3']).default('TLSv1.3'),
    }),
    /** Which certificate field names the SAE: the SAN URI alone, or the subject CN where there is no such URI. */
    saeIdentity: z.enum(['san-uri', 'san-uri-or-cn']).default('san-uri'),
    maxConnections: z.int().min(1).default(2000),
    maxConnectionsPerSae: z.int().min(1).default(256),
  }),
  peerApi: z.strictObject({
    ...listener,
    tls: z.strictObject({ certificate: z.string(), privateKey: z.string(), ca: z.string(), crl: z.string().optional() }),
    /** When the keys of a session with a peer are replaced. */
    sessions: z
      .strictObject({
        rekeyAfterS: z.int().min(1).max(86_400).default(300),
        rekeyAfterMessages: z.int().min(1).max(100_000_000).default(1_000_000),
      })
      .prefault({}),
  }),
  adminApi: z.strictObject({
    ...listener,
    tls: z.strictObject({ certificate: z.string(), privateKey: z.string() }),
    /** Public key (SPKI PEM, Ed25519 or P-256) that admin tokens are checked with. */
    tokenKey: z.string(),
  }),
  /** KMEs of other networks at this site, by ETSI GS QKD 020. Off unless set. */
  interworking: interworking.optional(),
  keys: keys.prefault({}),
  sharing: sharing.prefault({}),
  pools: pools.prefault({}),
  peers: z.array(peer).default([]),
  links: z.array(z.discriminatedUnion('driver', [tcpLink, bb84Link])).default([]),
  relay: relay.prefault({}),
  /** SAEs registered at first start. Afterwards the admin API and `kme sae` change them. */
  saes: z.array(sae).default([]),
  /** What SAEs may ask for. Off unless set. */
  quotas: z
    .strictObject({
      /** For every SAE. */
      defaults: defaultQuota.prefault({}),
      /** SAEs with limits of their own; `off` takes away a default. */
      saes: z.array(saeQuota).default([]),
      /** For a master SAE that asks for keys with this slave SAE, besides the limits of the master. */
      pairs: z.array(pairQuota).default([]),
    })
    .prefault({}),
  alarms: z
    .strictObject({
      /** Told of every alarm that is raised or cleared. */
      webhooks: z.array(webhook).max(16).default([]),
      /** A webhook hears that an alarm is over when it has been over for so long. */
      quietS: z.int().min(0).max(3600).default(60),
    })
    .prefault({}),
})

export type Config = Readonly<z.output<typeof schema>>

/** All that is wrong with a configuration file. */
export class ConfigError extends Error {
  readonly faults: readonly string[]
  constructor(file: string, faults: readonly string[]) {
    super(`${file} cannot be used:\n${faults.map((fault) => `  - ${fault}`).join('\n')}`)
    this.name = 'ConfigError'
    this.faults = faults
  }
}

/** Reads, checks and freezes a configuration; relative paths become absolute, seen from the file's folder.
 *  @throws ConfigError listing every fault. */
export const loadConfig = (file: string): Config => {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    throw new ConfigError(file, ['the file cannot be read; name it with --config'])
  }
  return parseConfig(text, file)
}

/** @param file names the text in errors and anchors relative paths. */
export const parseConfig = (text: string, file: string): Config => {
  const document = parseDocument(text, { uniqueKeys: true })
  if (document.errors.length > 0) {
    throw new ConfigError(
      file,
      document.errors.map((error) => error.message.split('\n')[0] ?? error.message),
    )
  }
  const written: unknown = document.toJS({ maxAliasCount: 20 }) ?? {}
  const parsed = schema.safeParse(written, { error: missing })
  const faults = [...(parsed.error?.issues.flatMap(describeIssue) ?? []), ...crossCheck(wellFormedParts(written))]
  if (!parsed.success || faults.length > 0) throw new ConfigError(file, faults)
  return deepFreeze(withAbsolutePaths(parsed.data, dirname(resolve(file))))
}

/** An empty value in YAML is null. */
const missing = (issue: z.core.$ZodRawIssue): string | undefined => {
  const setting = issue.code === 'invalid_union' && issue.discriminator !== undefined ? issue.discriminator : undefined
  const input = setting === undefined ? issue.input : asObject(issue.input)[setting]
  return input === undefined || input === null ? 'missing' : undefined
}

const describeIssue = (issue: z.core.$ZodIssue): string[] => {
  const at = issue.path
    .map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
    .join('')
    .replace(/^\./, '')
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => `${at === '' ? key : `${at}.${key}`}: unknown setting`)
  }
  return [`${at === '' ? 'file' : at}: ${issue.message}`]
}

/** What can be compared although other settings are wrong. A setting that is wrong itself is left out. */
interface WellFormedParts {
  readonly kmeId: string | undefined
  readonly listeners: readonly { readonly name: string; readonly host?: string | undefined; readonly port?: number | undefined }[]
  readonly keys: Partial<Config['keys']>
  readonly sharing: Config['sharing'] | undefined
  readonly pools: Partial<Omit<Config['pools'], 'perPeer' | 'fallback'>>
  readonly perPeer: readonly Partial<Config['pools']['perPeer'][number]>[]
  readonly fallback: readonly Partial<Config['pools']['fallback'][number]>[]
  readonly peers: readonly Partial<Config['peers'][number]>[]
  readonly links: readonly (Partial<z.output<typeof tcpLink>> | Partial<z.output<typeof bb84Link>>)[]
  readonly relay: Partial<Omit<Config['relay'], 'routes' | 'perPeer' | 'pairs'>>
  readonly relayPolicies: readonly Partial<Config['relay']['perPeer'][number]>[]
  readonly relayPairs: readonly Partial<Config['relay']['pairs'][number]>[]
  readonly routes: readonly Partial<Config['relay']['routes'][number]>[]
  readonly saes: readonly Partial<Config['saes'][number]>[]
  readonly quotas: {
    readonly defaults: Partial<Config['quotas']['defaults']>
    readonly saes: readonly Partial<Config['quotas']['saes'][number]>[]
    readonly pairs: readonly Partial<Config['quotas']['pairs'][number]>[]
  }
  readonly webhooks: readonly Partial<Config['alarms']['webhooks'][number]>[]
  readonly neighbours: readonly Partial<Neighbour>[]
}

type Neighbour = Pick<z.output<typeof neighbour>, 'id' | 'certificate'>

const LISTENERS = ['saeApi', 'peerApi', 'adminApi', 'interworking'] as const

const wellFormedParts = (written: unknown): WellFormedParts => {
  const {
    kme,
    keys: writtenKeys,
    pools: writtenPools,
    sharing: writtenSharing,
    peers,
    links,
    relay: writtenRelay,
    saes,
    quotas,
    alarms,
    ...others
  } = asObject(written)
  const { defaults, saes: saeQuotas, pairs } = asObject(quotas)
  const id = kmeId.safeParse(asObject(kme)['id'])
  return {
    kmeId: id.data,
    listeners: LISTENERS.filter((name) => others[name] !== undefined).map((name) => ({
      name,
      ...wellFormedMembers(z.object(listener), others[name]),
    })),
    keys: wellFormedMembers(keys, writtenKeys),
    sharing: sharing.safeParse(writtenSharing ?? {}).data,
    pools: wellFormedMembers(pools, writtenPools),
    perPeer: asList(asObject(writtenPools)['perPeer']).map((entry) =>
      wellFormedMembers(pools.shape.perPeer.unwrap().element, entry),
    ),
    fallback: asList(asObject(writtenPools)['fallback']).map((entry) =>
      wellFormedMembers(pools.shape.fallback.unwrap().element, entry),
    ),
    peers: asList(peers).map((entry) => wellFormedMembers(peer, entry)),
    links: asList(links).map((entry) => wellFormedMembers(asObject(entry)['driver'] === 'bb84' ? bb84Link : tcpLink, entry)),
    relay: wellFormedMembers(relay, writtenRelay),
    relayPolicies: asList(asObject(writtenRelay)['perPeer']).map((entry) =>
      wellFormedMembers(relay.shape.perPeer.unwrap().element, entry),
    ),
    relayPairs: asList(asObject(writtenRelay)['pairs']).map((entry) =>
      wellFormedMembers(relay.shape.pairs.unwrap().element, entry),
    ),
    routes: asList(asObject(writtenRelay)['routes']).map((entry) =>
      wellFormedMembers(relay.shape.routes.unwrap().element, entry),
    ),
    saes: asList(saes).map((entry) => wellFormedMembers(sae, entry)),
    quotas: {
      defaults: wellFormedMembers(defaultQuota, defaults),
      saes: asList(saeQuotas).map((entry) => wellFormedMembers(saeQuota, entry)),
      pairs: asList(pairs).map((entry) => wellFormedMembers(pairQuota, entry)),
    },
    webhooks: asList(asObject(alarms)['webhooks']).map((entry) => wellFormedMembers(webhook, entry)),
    neighbours: asList(asObject(others['interworking'])['neighbours']).map((entry) =>
      wellFormedMembers(z.object({ id: kmeId, certificate: certificateName }), entry),
    ),
  }
}

/** The members that are right, each parsed for itself, defaults included. */
const wellFormedMembers = <T extends z.ZodObject>(object: T, written: unknown): Partial<z.output<T>> => {
  const members = asObject(written)
  const parsed = Object.entries(object.shape).map(([name, member]) => [name, z.safeParse(member, members[name]).data] as const)
  return Object.fromEntries(parsed.filter(([, value]) => value !== undefined)) as Partial<z.output<T>>
}

const asObject = (written: unknown): Readonly<Record<string, unknown>> =>
  typeof written === 'object' && written !== null ? (written as Record<string, unknown>) : {}
const asList = (written: unknown): readonly unknown[] => (Array.isArray(written) ? written : [])

const crossCheck = (parts: WellFormedParts): string[] => [
  ...checkKeys(parts.keys),
  ...checkSharing(parts),
  ...checkPools(parts),
  ...checkListeners([...parts.listeners, ...stationsThatListen(parts.links)]),
  ...checkPeers(parts),
  ...checkLinks(parts),
  ...checkSaes(parts.saes),
  ...checkQuotas(parts),
  ...checkFallback(parts),
  ...checkRelay(parts),
  ...checkNeighbours(parts),
  ...twice('alarms.webhooks', 'url', parts.webhooks, ({ url }) => url),
]

const checkKeys = ({ minSizeBits, sizeBits, maxSizeBits, lendFloor, maxStored }: WellFormedParts['keys']): string[] => {
  const faults: string[] = []
  const isBelow = (one = 0, other = Infinity): boolean => one < other
  if (isBelow(sizeBits ?? Infinity, minSizeBits ?? 0)) faults.push('keys.minSizeBits: larger than keys.sizeBits')
  if (isBelow(maxSizeBits ?? Infinity, sizeBits ?? 0)) faults.push('keys.sizeBits: larger than keys.maxSizeBits')
  if (!isBelow(lendFloor, maxStored)) faults.push('keys.lendFloor: not below keys.maxStored, so nothing would ever be lent')
  return faults
}

/** SAEs may be registered later, so that one that is not among the saes is no fault. */
const checkSharing = ({ sharing: shares, keys: { lendFloor } }: WellFormedParts): string[] => {
  if (shares === undefined) return []
  const kept = [...shares.saes, ...shares.pairs].reduce((sum, { floorKeys }) => sum + floorKeys, shares.emergencyKeys)
  return [
    ...twice('sharing.saes', 'sae', shares.saes, ({ sae: id }) => id),
    ...twice('sharing.pairs', 'master', shares.pairs, ({ master, slave }) => `the pair ${master} and ${slave}`),
    ...(kept > (lendFloor ?? Infinity)
      ? [`keys.lendFloor: below the ${kept} keys that sharing keeps for SAEs, so they would be lent away`]
      : []),
  ]
}

const checkPools = ({ kmeId: own, keys: { maxStored, localStored }, pools: all, perPeer, peers }: WellFormedParts): string[] => {
  const known = allIds(peers)
  const faults = twice('pools.perPeer', 'peer', perPeer, ({ peer: id }) => id)
  perPeer.forEach(({ peer: id }, i) => {
    if (id === undefined || known === undefined || known.has(id) || id === own) return
    faults.push(`pools.perPeer[${i}].peer: ${id} is not among the peers`)
  })
  if (maxStored === undefined) return faults
  faults.push(...checkMarks('pools', maxStored, settleMarks(maxStored, all)))
  perPeer.forEach((marks, i) => {
    const isLocal = marks.peer !== undefined && marks.peer === own
    if (isLocal && localStored === undefined) return
    const settled = isLocal ? settleMarks(localStored as number, marks) : settleMarks(maxStored, marks, all)
    faults.push(...checkMarks(`pools.perPeer[${i}]`, isLocal ? (localStored as number) : maxStored, settled))
  })
  return faults
}

/** Their link ID must be one, and both KMEs put it together alike. */
const FALLBACK_IDS_MAX = 54

const checkFallback = ({ kmeId: own, fallback, peers, links }: WellFormedParts): string[] => {
  const known = allIds(peers)
  return [
    ...fallback.flatMap(({ peer: id }, i) => {
      if (id === undefined) return []
      if (known?.has(id) === false) return [`pools.fallback[${i}].peer: ${id} is not among the peers`]
      if (id.length + (own?.length ?? 0) <= FALLBACK_IDS_MAX) return []
      return [`pools.fallback[${i}].peer: the IDs of the two KMEs have more than ${FALLBACK_IDS_MAX} characters together`]
    }),
    ...twice('pools.fallback', 'peer', fallback, ({ peer: id }) => id),
    ...links.flatMap(({ id }, i) =>
      id?.startsWith('fallback:') === true ? [`links[${i}].id: no link is called fallback:...`] : [],
    ),
  ]
}

/** As `FALLBACK_IDS_MAX`. */
const RELAY_IDS_MAX = 57

const checkRelay = ({
  kmeId: own,
  relay: { enabled, maxHops },
  relayPolicies,
  relayPairs,
  routes,
  peers,
  links,
  saes,
}: WellFormedParts): string[] => {
  const known = allIds(peers)
  const linked = new Set(links.map(({ peer: id }) => id))
  const isLong = (id = ''): boolean => id.length + (own?.length ?? 0) > RELAY_IDS_MAX
  return [
    ...(enabled === true ? peers : []).flatMap(({ id }, i) =>
      id !== undefined && !linked.has(id) && isLong(id)
        ? [`peers[${i}].id: reached by relay, and the IDs of the two KMEs have more than ${RELAY_IDS_MAX} characters together`]
        : [],
    ),
    ...relayPolicies.flatMap(({ peer: id }, i) => {
      if (id === undefined) return []
      if (known?.has(id) === false) return [`relay.perPeer[${i}].peer: ${id} is not among the peers`]
      return linked.has(id) ? [`relay.perPeer[${i}].peer: a link leads to ${id}`] : []
    }),
    ...twice('relay.perPeer', 'peer', relayPolicies, ({ peer: id }) => id),
    ...checkPairs('relay.pairs', relayPairs, saes),
    ...routes.flatMap(({ to, via }, i) => {
      const at = `relay.routes[${i}]`
      const faults: string[] = []
      if (to !== undefined && known?.has(to) === false) faults.push(`${at}.to: ${to} is not among the peers`)
      if (to !== undefined && linked.has(to)) faults.push(`${at}.to: a link leads to ${to}`)
      if (via === undefined) return faults
      if (via[0] !== undefined && !linked.has(via[0])) faults.push(`${at}.via: no link leads to ${via[0]}`)
      const nodes = [own, ...via, to].filter((id) => id !== undefined)
      if (new Set(nodes).size < nodes.length) faults.push(`${at}.via: names a KME twice`)
      if (maxHops !== undefined && via.length + 1 > maxHops) faults.push(`${at}.via: more hops than relay.maxHops`)
      return faults
    }),
    ...links.flatMap(({ id }, i) => (id?.startsWith('relay:') === true ? [`links[${i}].id: no link is called relay:...`] : [])),
  ]
}

/** A KME is a peer or a neighbour: its ID says which way keys for the SAEs homed there go. */
const checkNeighbours = ({ kmeId: own, neighbours, peers, links }: WellFormedParts): string[] => {
  const known = new Set(peers.map(({ id }) => id))
  return [
    ...neighbours.flatMap(({ id }, i) => {
      if (id === undefined) return []
      if (id === own) return [`interworking.neighbours[${i}].id: this KME itself`]
      return known.has(id) ? [`interworking.neighbours[${i}].id: ${id} is among the peers`] : []
    }),
    ...twice('interworking.neighbours', 'id', neighbours, ({ id }) => id),
    ...twice('interworking.neighbours', 'certificate', neighbours, ({ certificate }) =>
      certificate === undefined ? undefined : Object.values(certificate).join(),
    ),
    ...links.flatMap(({ id }, i) =>
      id?.startsWith('received:') === true ? [`links[${i}].id: no link is called received:...`] : [],
    ),
  ]
}

/** The marks of one pool. The pool of keys between SAEs of this KME is small and has marks of its own. */
export const poolMarksOf = (config: Config, peerKmeId: KmeId): Marks => {
  const { keys: limits, pools: all } = config
  const own = all.perPeer.find(({ peer: id }) => id === peerKmeId)
  return peerKmeId === config.kme.id ? settleMarks(limits.localStored, own) : settleMarks(limits.maxStored, own, all)
}

/** What is wanted for keys relayed to one peer. */
export const relayPolicyOf = ({ relay: all }: Config, peerKmeId: KmeId) => {
  const own = all.perPeer.find(({ peer: id }) => id === peerKmeId)
  return {
    paths: own?.paths ?? all.paths ?? 1,
    endToEnd: own?.endToEnd ?? all.endToEnd ?? false,
    maxHops: Math.min(own?.maxHops ?? all.maxHops, all.maxHops),
    avoid: own?.avoid ?? all.avoid ?? [],
    only: own?.only ?? all.only,
  }
}

/** What is wanted for keys of two SAEs besides, when they are relayed. */
export const relayPairPolicyOf = ({ relay: { pairs } }: Config, master: SaeId, slave: SaeId) => {
  const own = pairs.find((pair) => pair.master === master && pair.slave === slave)
  if (own === undefined) return undefined
  const { paths = 1, endToEnd = false, maxHops = RELAY_HOPS_MAX, avoid = [], only } = own
  return { paths, endToEnd, maxHops, avoid, only }
}

const EVERY_ADDRESS = new Set(['0.0.0.0', '::', '[::]'])

const checkListeners = (listeners: WellFormedParts['listeners']): string[] =>
  listeners.flatMap(({ name, host: ownHost, port: ownPort }, i) => {
    // Port 0 is a free one, another each time.
    if (ownHost === undefined || ownPort === undefined || ownPort === 0) return []
    const meets = (other: string): boolean => other === ownHost || EVERY_ADDRESS.has(other) || EVERY_ADDRESS.has(ownHost)
    return listeners
      .slice(0, i)
      .filter((earlier) => earlier.port === ownPort && earlier.host !== undefined && meets(earlier.host))
      .map((earlier) => `${name}.port: ${ownPort} is taken by ${earlier.name}`)
  })

/** Alice's station of a link waits for Bob's, so its port is this KME's own. */
const stationsThatListen = (links: WellFormedParts['links']): WellFormedParts['listeners'] =>
  links.flatMap((link, i) =>
    'classical' in link && link.role === 'alice' ? [{ name: `links[${i}].classical`, ...link.classical }] : [],
  )

/** A fault for each entry whose name stood in an earlier one. */
const twice = <T>(list: string, setting: string, entries: readonly T[], nameOf: (entry: T) => string | undefined): string[] => {
  const seen = new Set<string>()
  return entries.flatMap((entry, i) => {
    const name = nameOf(entry)
    if (name === undefined || !seen.has(name)) {
      if (name !== undefined) seen.add(name)
      return []
    }
    return [`${list}[${i}].${setting}: ${name} appears twice`]
  })
}

/** The IDs in a list; undefined while one of them is not known, because nobody can tell then what is missing. */
const allIds = (entries: readonly { readonly id?: string }[]): ReadonlySet<string> | undefined => {
  const ids = entries.map(({ id }) => id).filter((id) => id !== undefined)
  return ids.length === entries.length ? new Set(ids) : undefined
}

const checkPeers = ({ kmeId: own, peers, links }: WellFormedParts): string[] => [
  ...peers.flatMap(({ id }, i) => (id !== undefined && id === own ? [`peers[${i}].id: this KME itself`] : [])),
  ...peers.flatMap(({ id, mixQkdKey, sessions }, i) => {
    if (mixQkdKey !== 'require' || id === undefined) return []
    if (sessions === 'off') return [`peers[${i}].mixQkdKey: nothing can be mixed in while peers[${i}].sessions is off`]
    return links.some(({ peer: other }) => other === id) ? [] : [`peers[${i}].mixQkdKey: no link to ${id} brings QKD keys`]
  }),
  ...twice('peers', 'id', peers, ({ id }) => id),
]

const checkLinks = ({ peers, links }: WellFormedParts): string[] => {
  const known = allIds(peers)
  return [
    ...links.flatMap(({ peer: other }, i) =>
      other === undefined || known === undefined || known.has(other) ? [] : [`links[${i}].peer: ${other} is not among the peers`],
    ),
    ...twice('links', 'id', links, ({ id }) => id),
    ...twice('links', 'port', links, (link) =>
      !('port' in link) || link.host === undefined || link.port === undefined
        ? undefined
        : `the device at ${link.host}:${link.port}`,
    ),
    ...twice('links', 'photons.port', links, (link) =>
      'photons' in link && link.photons !== undefined ? `the quantum channel at ${addressOf(link.photons)}` : undefined,
    ),
    ...twice('links', 'classical.port', links, (link) =>
      'classical' in link && link.classical !== undefined && link.role === 'bob'
        ? `Alice's station at ${addressOf(link.classical)}`
        : undefined,
    ),
    ...twice('links', 'authenticationKeyFile', links, (link) =>
      'authenticationKeyFile' in link ? link.authenticationKeyFile : undefined,
    ),
  ]
}

const addressOf = ({ host: name, port: number }: z.output<typeof endpoint>): string => `${name}:${number}`

const checkSaes = (saes: WellFormedParts['saes']): string[] => {
  const known = allIds(saes)
  const faults = twice('saes', 'id', saes, ({ id }) => id)
  saes.forEach(({ id, sharesWith = [] }, i) => {
    for (const other of sharesWith) {
      if (known?.has(other) === false) faults.push(`saes[${i}].sharesWith: ${other} is not among the saes`)
      if (other === id) faults.push(`saes[${i}].sharesWith: ${other} is the SAE itself`)
    }
  })
  return faults
}

type QuotaMembers = WellFormedParts['quotas']['defaults']
/** A window as long as that is not counted any more. */
const WINDOW_S_MAX = 86_400

/** A list of pairs names SAEs that are there, and no pair twice. */
const checkPairs = (
  setting: string,
  pairs: readonly { readonly master?: SaeId | undefined; readonly slave?: SaeId | undefined }[],
  saes: WellFormedParts['saes'],
): string[] => {
  const known = allIds(saes)
  const unknown = (at: string, id: string | undefined): string[] =>
    id === undefined || known === undefined || known.has(id) ? [] : [`${at}: ${id} is not among the saes`]
  return [
    ...pairs.flatMap(({ master, slave }, i) => [
      ...unknown(`${setting}[${i}].master`, master),
      ...unknown(`${setting}[${i}].slave`, slave),
    ]),
    ...twice(setting, 'master', pairs, ({ master, slave }) =>
      master === undefined || slave === undefined ? undefined : `the pair ${master} and ${slave}`,
    ),
  ]
}

const checkQuotas = ({ saes, quotas }: WellFormedParts): string[] => {
  const known = allIds(saes)
  const unknown = (setting: string, id: string | undefined): string[] =>
    id === undefined || known === undefined || known.has(id) ? [] : [`${setting}: ${id} is not among the saes`]
  return [
    ...checkQuota('quotas.defaults', quotas.defaults),
    ...quotas.saes.flatMap((entry, i) => [
      ...unknown(`quotas.saes[${i}].sae`, entry.sae),
      ...checkQuota(`quotas.saes[${i}]`, entry, quotas.defaults),
    ]),
    ...twice('quotas.saes', 'sae', quotas.saes, ({ sae: id }) => id),
    ...checkPairs('quotas.pairs', quotas.pairs, saes),
    ...quotas.pairs.flatMap((entry, i) => checkQuota(`quotas.pairs[${i}]`, entry)),
  ]
}

const checkQuota = (at: string, own: QuotaMembers, defaults: QuotaMembers = {}): string[] => {
  const check = (rateName: 'requestsPerS' | 'keysPerS', burstName: 'requestsBurst' | 'keysBurst'): string[] => {
    const rate = own[rateName] ?? defaults[rateName]
    const points = own[burstName]
    if (typeof rate !== 'number') return points === undefined ? [] : [`${at}.${burstName}: without ${rateName} it limits nothing`]
    if (points !== undefined && points < rate) return [`${at}.${burstName}: below ${rateName}`]
    if ((points ?? Math.ceil(rate)) / rate > WINDOW_S_MAX) return [`${at}.${rateName}: takes more than a day to bring the burst`]
    return []
  }
  return [...check('requestsPerS', 'requestsBurst'), ...check('keysPerS', 'keysBurst')]
}

const withAbsolutePaths = (config: Config, folder: string): Config => {
  const absolute = (path: string): string => (isAbsolute(path) ? path : resolve(folder, path))
  const all = <T extends Record<string, unknown>>(tls: T, names: readonly (keyof T)[]): T => {
    const copy = { ...tls }
    for (const name of names) if (typeof copy[name] === 'string') copy[name] = absolute(copy[name]) as T[keyof T]
    return copy
  }
  return {
    ...config,
    database: all(config.database, ['urlFile']),
    redis: all(config.redis, ['urlFile', 'ca']),
    custody: all(config.custody, ['passphraseFile']),
    saeApi: { ...config.saeApi, tls: all(config.saeApi.tls, ['certificate', 'privateKey', 'clientCa', 'clientCrl']) },
    peerApi: { ...config.peerApi, tls: all(config.peerApi.tls, ['certificate', 'privateKey', 'ca', 'crl']) },
    ...(config.interworking !== undefined && {
      interworking: { ...config.interworking, tls: all(config.interworking.tls, ['certificate', 'privateKey', 'ca', 'crl']) },
    }),
    adminApi: { ...all(config.adminApi, ['tokenKey']), tls: all(config.adminApi.tls, ['certificate', 'privateKey']) },
    links: config.links.map((link) => (link.driver === 'bb84' ? all(link, ['authenticationKeyFile']) : link)),
    alarms: { ...config.alarms, webhooks: config.alarms.webhooks.map((webhook) => all(webhook, ['secretFile', 'caFile'])) },
  }
}

const deepFreeze = <T>(value: T): T => {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    Object.values(value).forEach(deepFreeze)
  }
  return value
}
