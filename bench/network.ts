/** The network that is measured: PostgreSQL as in production (every commit on disk), two KMEs started by `kme start`,
 *  an emulated pair of QKD devices, and the two baseline servers; every one a process of its own. */
import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { stringify } from 'yaml'
import { signAdminToken } from '../src/admin/admin-token.ts'
import { startEmbeddedPostgres } from '../src/embedded-postgres/embedded-postgres.ts'
import { systemClock } from '../src/kernel/clock.ts'
import { systemRandom } from '../src/kernel/random.ts'
import { createAuthorities } from '../src/pki/authorities.ts'
import { startChild, type Child } from './child.ts'
import type { Target } from './load.ts'

export type KmeName = 'kme-a' | 'kme-b'

export interface PoolLevel {
  /** Keys this KME issues. */
  readonly mine: number
  /** Keys the other KME issues. */
  readonly theirs: number
}

export interface Filled {
  readonly keys: number
  /** Of performance.now(). */
  readonly endMs: number
}

export interface BenchNetwork {
  /** alice at kme-a, bob at kme-b. */
  readonly saeApi: Readonly<Record<KmeName, Target>>
  readonly baseline: Readonly<Record<'https' | 'express', { readonly target: Target; readonly pid: number }>>
  readonly kmes: Readonly<Record<KmeName, Child>>
  readonly postgresPid: number
  readonly postgresVersion: string
  level(kme: KmeName): Promise<PoolLevel>
  /** Has the devices deliver this many blocks, or a few more, and waits until both ends have agreed them all.
   *  @returns when the last of them was agreed. */
  fill(blocks: number, rateBlocksPerS: number): Promise<Filled>
}

export const FULL_RATE_BLOCKS_PER_S = 20_000
const BLOCK_BYTES = 8192
const KEY_BYTES = 32
/** The first bytes of a block are the key its agreement is authenticated with. */
export const KEYS_PER_BLOCK = BLOCK_BYTES / KEY_BYTES - 1
const POLL_MS = 10
const FILL_STALL_MS = 30_000

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })

/** @param cleanUp receives what must be stopped, as soon as it runs.
 *  @param answerSizes numbers of keys the baseline servers answer with. */
export const startNetwork = async (options: {
  readonly cleanUp: AsyncDisposableStack
  readonly signal: AbortSignal
  readonly maxStoredKeys: number
  readonly answerSizes: readonly number[]
  /** Further settings of each KME in the `peers` of the other. */
  readonly peer?: object
}): Promise<BenchNetwork> => {
  const { cleanUp, signal } = options
  const directory = mkdtempSync(join(tmpdir(), 'openkme-bench-'))
  cleanUp.defer(() => rmSync(directory, { recursive: true, force: true }))
  const file = (name: string, content: string): string => {
    const path = join(directory, name)
    writeFileSync(path, content, { mode: 0o600 })
    return path
  }

  const postgres = await startEmbeddedPostgres({ directory: join(directory, 'postgres'), durable: true })
  cleanUp.defer(() => postgres.stop())
  signal.throwIfAborted()
  const postgresPid = Number.parseInt(readFileSync(join(directory, 'postgres', 'data', 'postmaster.pid'), 'utf8'), 10)
  const postgresVersion = await versionOf(postgres.url('postgres'))

  const devices = await startChild(
    'device emulator',
    'src/cli/kme.ts',
    [
      'device-emulator',
      '--link',
      'a-b',
      '--block-bytes',
      String(BLOCK_BYTES),
      '--buffer-blocks',
      '32',
      '--rate',
      '100',
      '--paused',
    ],
    /^LISTENING a=\d+ b=\d+$/,
  )
  cleanUp.defer(() => devices.stop())
  const [devicePortA, devicePortB] = [...devices.readyLine.matchAll(/=(\d+)/g)].map((match) => Number(match[1])) as [
    number,
    number,
  ]

  const authorities = await createAuthorities(join(directory, 'pki'), { clock: systemClock, random: systemRandom })
  const tokenKeys = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  const tokenKey = file('token.pub.pem', tokenKeys.publicKey)
  const token = await signAdminToken({
    privateKeyPem: tokenKeys.privateKey,
    subject: 'bench',
    scopes: ['pool:read'],
    lifeS: 12 * 3600,
    clock: systemClock,
    random: systemRandom,
  })

  const ports: Record<KmeName, { sae: number; peer: number; admin: number }> = {
    'kme-a': { sae: await freePort(), peer: await freePort(), admin: await freePort() },
    'kme-b': { sae: await freePort(), peer: await freePort(), admin: await freePort() },
  }
  const caPem = authorities.certificatePem.kme
  const startKme = async (
    name: KmeName,
    devicePort: number,
  ): Promise<{ child: Child; certificate: string; privateKey: string }> => {
    const other: KmeName = name === 'kme-a' ? 'kme-b' : 'kme-a'
    const issued = await authorities.issue({ profile: 'kme', id: name, hosts: ['localhost', '127.0.0.1'] })
    const certificate = file(`${name}.pem`, issued.certificatePem)
    const privateKey = file(`${name}.key`, issued.privateKeyPem)
    const database = name.replace('-', '_')
    await postgres.createDatabase(database)
    const config = {
      kme: { id: name },
      log: { level: 'warn', requests: false },
      database: { urlFile: file(`${name}.database`, postgres.url(database)) },
      custody: { passphraseFile: file(`${name}.passphrase`, `passphrase of ${name}`) },
      saeApi: {
        port: ports[name].sae,
        tls: {
          certificate,
          privateKey,
          clientCa: authorities.files.sae.certificate,
          clientCrl: authorities.files.sae.revocationList,
        },
      },
      peerApi: {
        port: ports[name].peer,
        tls: { certificate, privateKey, ca: authorities.files.kme.certificate, crl: authorities.files.kme.revocationList },
      },
      adminApi: { port: ports[name].admin, tls: { certificate, privateKey }, tokenKey },
      keys: { maxStored: options.maxStoredKeys, localStored: 0 },
      peers: [{ id: other, url: `https://127.0.0.1:${ports[other].peer}`, ...options.peer }],
      links: [{ id: 'a-b', peer: other, driver: 'tcp', port: devicePort }],
      saes: [
        { id: 'alice', kme: 'kme-a', sharesWith: ['bob'] },
        { id: 'bob', kme: 'kme-b', sharesWith: ['alice'] },
      ],
    }
    const args = ['start', '--config', file(`${name}.yaml`, stringify(config))]
    // Set for somebody else, it would win over the configuration.
    const child = await startChild(name, 'src/cli/kme.ts', args, /"event":"listening"/, {
      environment: { DATABASE_URL: '' },
      showLog: true,
    })
    cleanUp.defer(() => child.stop())
    return { child, certificate, privateKey }
  }
  const [a, b] = await Promise.all([startKme('kme-a', devicePortA), startKme('kme-b', devicePortB)])
  signal.throwIfAborted()

  const [alice, bob] = [
    await authorities.issue({ profile: 'sae', id: 'alice' }),
    await authorities.issue({ profile: 'sae', id: 'bob' }),
  ]
  const asAlice = { certificatePem: alice.certificatePem, privateKeyPem: alice.privateKeyPem, caPem }
  const asBob = { certificatePem: bob.certificatePem, privateKeyPem: bob.privateKeyPem, caPem }
  const startBaseline = async (kind: 'https' | 'express'): Promise<{ target: Target; pid: number }> => {
    const args = [kind, a.certificate, a.privateKey, authorities.files.sae.certificate, ...options.answerSizes.map(String)]
    const child = await startChild(`baseline ${kind}`, 'bench/baseline-server.ts', args, /^LISTENING \d+$/)
    cleanUp.defer(() => child.stop())
    return { target: { ...asAlice, port: Number(child.readyLine.split(' ')[1]) }, pid: child.pid }
  }
  const baseline = { https: await startBaseline('https'), express: await startBaseline('express') }

  const agent = new Agent({ keepAlive: true, ca: caPem })
  cleanUp.defer(() => agent.destroy())
  const level = async (kme: KmeName): Promise<PoolLevel> => {
    const other: KmeName = kme === 'kme-a' ? 'kme-b' : 'kme-a'
    const answer = await getJson(agent, ports[kme].admin, '/api/v1/pools', token)
    const pool = (answer as { pools: (PoolLevel & { kmeId: string })[] }).pools.find(({ kmeId }) => kmeId === other)
    return pool ?? { mine: 0, theirs: 0 }
  }
  const totals = async (): Promise<{ a: number; b: number }> => {
    const [atA, atB] = [await level('kme-a'), await level('kme-b')]
    return { a: atA.mine + atA.theirs, b: atB.mine + atB.theirs }
  }
  const producedBlocks = async (): Promise<number> =>
    (JSON.parse(await devices.ask('status')) as { producedBlocks: number }).producedBlocks

  const fill: BenchNetwork['fill'] = async (blocks, rateBlocksPerS) => {
    const before = await totals()
    const producedBefore = await producedBlocks()
    await devices.ask(`rate ${rateBlocksPerS}`)
    await devices.ask('resume')
    while ((await producedBlocks()) < producedBefore + blocks) await sleep(POLL_MS, undefined, { signal })
    await devices.ask('pause')
    const keys = ((await producedBlocks()) - producedBefore) * KEYS_PER_BLOCK
    let seen = await totals()
    let endMs = performance.now()
    while (seen.a < before.a + keys || seen.b < before.b + keys) {
      await sleep(POLL_MS, undefined, { signal })
      const now = await totals()
      if (now.a !== seen.a || now.b !== seen.b) endMs = performance.now()
      seen = now
      if (performance.now() - endMs > FILL_STALL_MS) {
        throw new Error(
          `the pools do not fill: ${seen.a - before.a} keys at kme-a and ${seen.b - before.b} at kme-b instead of ${keys}`,
        )
      }
    }
    return { keys, endMs }
  }

  return {
    saeApi: { 'kme-a': { ...asAlice, port: ports['kme-a'].sae }, 'kme-b': { ...asBob, port: ports['kme-b'].sae } },
    baseline,
    kmes: { 'kme-a': a.child, 'kme-b': b.child },
    postgresPid,
    postgresVersion,
    level,
    fill,
  }
}

const versionOf = async (url: string): Promise<string> => {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    const settings = ['server_version', 'fsync', 'synchronous_commit', 'full_page_writes']
    const values: string[] = []
    for (const name of settings) values.push(((await client.query(`SHOW ${name}`)).rows[0] as Record<string, string>)[name]!)
    return `${values[0]!} (fsync ${values[1]!}, synchronous_commit ${values[2]!}, full_page_writes ${values[3]!})`
  } finally {
    await client.end()
  }
}

const getJson = (agent: Agent, port: number, path: string, token: string): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${token}` }
    const outgoing = request({ host: '127.0.0.1', servername: 'localhost', port, path, headers, agent }, (incoming) => {
      text(incoming).then((body) => {
        if (incoming.statusCode === 200) resolve(JSON.parse(body))
        else reject(new Error(`${path}: ${incoming.statusCode ?? 0} ${body}`))
      }, reject)
    })
    outgoing.on('error', reject)
    outgoing.end()
  })
