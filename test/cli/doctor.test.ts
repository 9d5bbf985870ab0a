/** `kme doctor` on a KME that is fine, and on the same KME with one mistake planted at a time: each is found and named. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { once } from 'node:events'
import { chmod, copyFile, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import { examine } from '../../src/cli/doctor-command.ts'
import type { Finding } from '../../src/cli/doctor/check.ts'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { writePreSharedSecret } from '../../src/link/pre-shared-secret.ts'
import { freePort } from '../setup/free-port.ts'
import { createPki, issueFiles, json, startAnsweringKme, type AnsweringKme, type Pki } from './answering-kme.ts'
import { runProgram } from './run-kme.ts'
import { openTestDatabase } from '../setup/test-database.ts'
import { runStatement } from '../setup/run-statement.ts'

const DAY_MS = 86_400_000
const DEADLINE_MS = 10_000
const HELLO = { protocol: 1, kmeId: 'kme-b', unitSizeBits: 256 }

let pki: Pki
let postgres: EmbeddedPostgres
let peer: AnsweringKme
let device: Server
let deviceConnections = 0
let config: ReturnType<typeof healthyConfig>
let files: { certificate: string; key: string; passphrase: string; databaseUrl: string; tokenKey: string }

beforeAll(async () => {
  pki = await createPki()
  postgres = await startEmbeddedPostgres({ directory: join(pki.dir, 'postgres'), durable: true })
  await postgres.createDatabase('kme_a')
  await applyMigrations(postgres.url('kme_a'))
  await bindToPassphrase('right')
  peer = await startAnsweringKme(pki, { kmeId: 'kme-b', clients: 'kme' })
  device = createServer((socket) => {
    deviceConnections += 1
    socket.on('error', () => undefined).resume()
  })
  await listenOn(device)
})
afterAll(async () => {
  await peer.stop()
  device.close()
  await postgres.stop()
  await pki.remove()
})

beforeEach(async () => {
  const { certificate, key } = await issueFiles(pki, 'kme', 'kme-a')
  const inDir = (name: string): string => join(pki.dir, name)
  files = {
    certificate,
    key,
    passphrase: inDir('passphrase'),
    databaseUrl: inDir('database-url'),
    tokenKey: inDir('token.pub.pem'),
  }
  await writeSecret(files.passphrase, 'right\n')
  await writeSecret(files.databaseUrl, postgres.url('kme_a'))
  await writeFile(files.tokenKey, TOKEN_KEY)
  peer.answer(json(HELLO))
  config = healthyConfig()
})

const TOKEN_KEY = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`

const healthyConfig = () => {
  const { kme, sae } = pki.authorities.files
  const own = { certificate: files.certificate, privateKey: files.key }
  return {
    kme: { id: 'kme-a' },
    database: { urlFile: files.databaseUrl },
    custody: { passphraseFile: files.passphrase, argon2MemoryKib: 19_456, argon2Passes: 1 },
    saeApi: { port: 0, tls: { ...own, clientCa: sae.certificate, clientCrl: sae.revocationList } },
    peerApi: { port: 0, tls: { ...own, ca: kme.certificate, crl: kme.revocationList } },
    adminApi: { port: 0, tls: { ...own }, tokenKey: files.tokenKey },
    keys: { sizeBits: 256 },
    peers: [{ id: 'kme-b', url: peer.url }],
    links: [{ id: 'a-b', peer: 'kme-b', driver: 'tcp', host: '127.0.0.1', port: portOf(device) }],
  }
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port
const listenOn = async (server: Server): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return portOf(server)
}
const writeSecret = async (file: string, text: string): Promise<void> => {
  await writeFile(file, text)
  await chmod(file, 0o600)
}

const bindToPassphrase = async (text: string): Promise<void> => {
  await using database = openTestDatabase(postgres.url('kme_a'), 2)
  const passphrase = SecretBytes.take(Buffer.from(text))
  const cost = { argon2MemoryKib: 19_456, argon2Passes: 1 }
  await openKeyring({ database, random: systemRandom, kmeId: 'kme-a', passphrase, ...cost })
}
const query = (sql: string, database = 'kme_a'): Promise<unknown> => runStatement(postgres.url(database), sql)

const clockAhead = (aheadMs: number): Clock => ({ ...systemClock, nowMs: () => systemClock.nowMs() + aheadMs })
const writeConfig = async (): Promise<string> => {
  const file = join(pki.dir, 'kme.yaml')
  await writeFile(file, JSON.stringify(config))
  return file
}
/** What is not ok, as `level check: what`. */
const complaints = async (clock: Clock = systemClock, deadlineMs = DEADLINE_MS): Promise<string[]> =>
  (await examine(await writeConfig(), clock, deadlineMs))
    .filter(({ level }) => level !== 'ok')
    .map(({ level, check, what, todo }) => `${level} ${check}: ${what}${todo === undefined ? ' AND NOTHING TO DO' : ''}`)

describe('a KME that is fine', () => {
  it('gives no complaint, and everything was looked at', async () => {
    const findings = await examine(await writeConfig(), systemClock, DEADLINE_MS)
    expect(findings.filter(({ level }) => level !== 'ok')).toEqual([])
    const parts = ['config', 'files', 'certificates', 'revocation lists', 'database', 'ports', 'peers', 'links']
    expect([...new Set(findings.map(({ check }) => check))]).toEqual(parts)
  })

  it('ends the program with 0, and with 1 as soon as something fails', async () => {
    const file = await writeConfig()
    const fine = await runProgram(['doctor', '--config', file, '--json'])
    expect([fine.status, JSON.parse(fine.stdout).fail]).toEqual([0, 0])
    await chmod(files.key, 0o644)
    const broken = await runProgram(['doctor', '--config', file])
    expect(broken.status).toBe(1)
    expect(broken.stdout).toContain(
      `FAIL  files             saeApi.tls.privateKey: others than the owner may use the secret file`,
    )
    expect(broken.stdout).toContain(`-> chmod 600 ${files.key}`)
    expect(broken.stdout).toMatch(/\d+ ok, 0 warnings, 3 failed\n$/)
  })
})

describe('configuration and files', () => {
  it('names every fault of the configuration', async () => {
    Object.assign(config, { kme: { id: 'not a name' }, surplus: 1 })
    expect(await complaints()).toEqual([
      expect.stringContaining('fail config: kme.id: not a KME ID'),
      'fail config: surplus: unknown setting',
    ])
  })

  it('names a missing, an empty and an open file', async () => {
    config.custody.passphraseFile = join(pki.dir, 'nowhere')
    await writeFile(files.tokenKey, '')
    await chmod(files.databaseUrl, 0o640)
    const found = await complaints()
    expect(found).toContain(`fail files: custody.passphraseFile: ${pki.dir}/nowhere does not exist`)
    expect(found).toContain(`fail files: adminApi.tokenKey: ${files.tokenKey} is empty`)
    expect(found).toContainEqual(expect.stringMatching(/^fail files: database.urlFile: others .*\(mode 0640\)$/))
    expect(found).toContainEqual(expect.stringMatching(/^fail database: the passphrase file .* cannot be read/))
  })

  it('does not accept the private token key in place of the public one', async () => {
    await copyFile(files.key, files.tokenKey)
    expect(await complaints()).toEqual([expect.stringContaining('must be the public key')])
  })
})

describe('certificates and revocation lists', () => {
  const own = (more: object): void => void Object.assign(config.peerApi.tls, more)

  it('finds a certificate of another KME', async () => {
    const { certificate, key } = await issueFiles(pki, 'kme', 'kme-z')
    own({ certificate, privateKey: key })
    expect(await complaints()).toEqual(['fail certificates: peerApi.tls.certificate: names kme-z, not this KME kme-a'])
  })

  it('finds a key that belongs to another certificate', async () => {
    const other = await issueFiles(pki, 'kme', 'kme-z')
    own({ privateKey: other.key })
    expect(await complaints()).toEqual([
      expect.stringMatching(/^fail certificates: peerApi.tls.privateKey: .* is not the key of /),
      'fail peers: kme-b: not asked, the files of peerApi.tls cannot be used',
    ])
  })

  it('finds the certificate of an SAE where a KME is needed', async () => {
    const { certificate, key } = await issueFiles(pki, 'sae', 'alice')
    Object.assign(config.saeApi.tls, { certificate, privateKey: key })
    expect(await complaints()).toEqual([
      'warn certificates: saeApi.tls.certificate: not signed by the authority in peerApi.tls.ca',
      'fail certificates: saeApi.tls.certificate: names no KME, not this KME kme-a',
      'fail certificates: saeApi.tls.certificate: its extended key usage lacks serverAuth',
    ])
  })

  it('finds a certificate and a list of another authority, and a leaf in the place of an authority', async () => {
    const { kme, sae } = pki.authorities.files
    own({ ca: sae.certificate })
    config.saeApi.tls.clientCa = files.certificate
    const found = await complaints()
    expect(found).toContain('fail certificates: peerApi.tls.certificate: not signed by the authority in peerApi.tls.ca')
    expect(found).toContain('fail certificates: saeApi.tls.clientCa: the certificate is not an authority')
    expect(found).toContain(
      `fail revocation lists: peerApi.tls.crl: ${kme.revocationList} is not signed by the authority in ${sae.certificate}`,
    )
    expect(found).toContain('fail peers: kme-b: its certificate is not from the authority in peerApi.tls.ca')
  })

  it('looks at what is shown to KMEs of other networks', async () => {
    const { kme } = pki.authorities.files
    const tls = { certificate: files.certificate, privateKey: files.key, ca: kme.certificate, crl: kme.revocationList }
    const interworking = { port: 0, url: 'https://kme-a.example:8471', tls }
    Object.assign(config, { interworking })
    expect(await complaints()).toEqual([])
    const { certificate, key } = await issueFiles(pki, 'sae', 'alice')
    Object.assign(config, { interworking: { ...interworking, tls: { certificate, privateKey: key, ca: certificate } } })
    expect(await complaints()).toEqual([
      'fail certificates: interworking.tls.ca: the certificate is not an authority',
      'fail certificates: interworking.tls.certificate: its extended key usage lacks serverAuth',
      expect.stringMatching(/^warn revocation lists: interworking.tls.crl: no revocation list/),
    ])
  })

  it('finds a revocation list that was tampered with', async () => {
    const forged = join(pki.dir, 'forged.crl.pem')
    const pem = await readFile(pki.authorities.files.sae.revocationList, 'utf8')
    const der = Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64')
    der[der.length - 1]! ^= 1
    await writeFile(forged, `-----BEGIN X509 CRL-----\n${der.toString('base64')}\n-----END X509 CRL-----\n`)
    config.saeApi.tls.clientCrl = forged
    expect(await complaints()).toEqual([expect.stringContaining(`saeApi.tls.clientCrl: ${forged} is not signed by`)])
  })

  it('warns when no revocation list is configured', async () => {
    Reflect.deleteProperty(config.peerApi.tls, 'crl')
    expect(await complaints()).toEqual([expect.stringMatching(/^warn revocation lists: peerApi.tls.crl: no revocation list/)])
  })

  it.each([
    [6.5, /^warn revocation lists: saeApi.tls.clientCrl: runs out in 1[12] hours/],
    [8, /^fail revocation lists: saeApi.tls.clientCrl: ran out on /],
    [380, /^warn certificates: adminApi.tls.certificate: expires in 16 days/],
    [400, /^fail certificates: adminApi.tls.certificate: expired on /],
    [-1, /^fail certificates: adminApi.tls.certificate: not valid before /],
  ])('sees after %d days what has run out or soon will', async (days, text) =>
    expect(await complaints(clockAhead(days * DAY_MS))).toContainEqual(expect.stringMatching(text)),
  )
})

describe('clock', () => {
  it.each([
    [10_000, 'warn', 'ahead of'],
    [-10_000, 'warn', 'behind'],
    [120_000, 'fail', 'ahead of'],
  ])('%d ms apart from the database and a peer', async (aheadMs, level, where) => {
    const found = await complaints(clockAhead(aheadMs))
    const seen = found.find((text) => text.startsWith(`${level} database: this machine's clock is `))
    expect(seen).toContain(` s ${where} that of the database`)
    // Asking takes a moment on a busy machine.
    expect(Math.abs(Number(/is ([0-9.]+) s/.exec(seen ?? '')?.[1]) - Math.abs(aheadMs) / 1000)).toBeLessThan(5)
    expect(found).toContainEqual(
      expect.stringMatching(new RegExp(`^${level} peers: this machine's clock is [0-9.]+ s .* that of kme-b$`)),
    )
  })
})

describe('database', () => {
  it('finds a passphrase that does not open it', async () => {
    await writeSecret(files.passphrase, 'wrong\n')
    expect(await complaints()).toEqual([expect.stringMatching(/^fail database: the passphrase does not open it/)])
  })

  it('finds settings that can lose commits', async () => {
    await query("ALTER SYSTEM SET full_page_writes = 'off'")
    await query('SELECT pg_reload_conf()')
    try {
      expect(await complaints()).toEqual([expect.stringMatching(/^fail database: full_page_writes is off/)])
    } finally {
      await query('ALTER SYSTEM RESET full_page_writes')
      await query('SELECT pg_reload_conf()')
    }
  })

  it('leaves an empty database empty and says what is to come', async () => {
    await postgres.createDatabase('empty')
    await writeSecret(files.databaseUrl, postgres.url('empty'))
    const findings = await examine(await writeConfig(), systemClock, DEADLINE_MS)
    const said = findings.filter(({ check }) => check === 'database').map(({ level, what }) => `${level}: ${what}`)
    expect(said).toContainEqual(expect.stringMatching(/^ok: \d+ migrations to come/))
    expect(said).toContain('ok: no keys yet: the first start binds it to the passphrase')
    await query('CREATE TABLE custody_term (marker int)', 'empty')
  })

  it('finds a migration of a newer version, one that failed and one that was changed', async () => {
    await postgres.createDatabase('newer')
    await applyMigrations(postgres.url('newer'))
    await writeSecret(files.databaseUrl, postgres.url('newer'))
    await query("UPDATE _prisma_migrations SET checksum = 'x', finished_at = NULL WHERE migration_name = '0001_init'", 'newer')
    expect(await complaints()).toEqual([
      'fail database: the migration 0001_init failed half-way',
      'fail database: the migration 0001_init was changed after it had been applied',
    ])
    await query("UPDATE _prisma_migrations SET migration_name = '9999_later'", 'newer')
    expect(await complaints()).toEqual(['fail database: has migrations this version does not know: 9999_later'])
  })

  it.each([
    ['nobody listens', 'postgres://kme:hunter2@127.0.0.1:1/kme', /^fail database: cannot be reached: .*ECONNREFUSED/],
    ['it is no URL', 'postgres://kme:hunter2@[/kme', /^fail database: cannot be reached: /],
  ])('says that it cannot be reached when %s, and keeps the password to itself', async (_, url, text) => {
    await writeSecret(files.databaseUrl, url)
    const [found, ...more] = await complaints()
    expect([found, more]).toEqual([expect.stringMatching(text), []])
    expect(found).not.toContain('hunter2')
  })

  it('does not wait for ever for one that never answers', async () => {
    const silent = createServer((socket) => void socket.on('error', () => undefined).resume())
    await writeSecret(files.databaseUrl, `postgres://kme@127.0.0.1:${await listenOn(silent)}/kme`)
    expect(await complaints(systemClock, 1500)).toEqual([expect.stringMatching(/^fail database: cannot be reached: /)])
    silent.close()
  })
})

describe('ports', () => {
  it('finds a port that another program holds', async () => {
    const other = createServer((socket) => socket.destroy())
    config.saeApi.port = await listenOn(other)
    expect(await complaints()).toEqual([`fail ports: saeApi: 127.0.0.1 port ${portOf(other)} is held by another program`])
    other.close()
  })

  it('finds one that two listeners want', async () => {
    config.saeApi.port = config.adminApi.port = 40_000
    expect(await complaints()).toEqual([expect.stringContaining('adminApi.port: 40000 is taken by saeApi')])
  })

  it('knows the KME itself, and leaves the devices of a running KME alone', async () => {
    const running = await startAnsweringKme(pki, { kmeId: 'kme-a' })
    config.saeApi.port = running.port
    deviceConnections = 0
    const findings = await examine(await writeConfig(), systemClock, DEADLINE_MS)
    await running.stop()
    const said = findings.map(({ what }) => what)
    expect(said).toContain(`saeApi: 127.0.0.1 port ${running.port} is held by this KME, which runs`)
    expect(said).toContain('the devices belong to the running KME: see "kme link list"')
    expect(deviceConnections).toBe(0)
  })

  it('does not take another KME for this one', async () => {
    config.saeApi.port = peer.port
    expect(await complaints()).toEqual([`fail ports: saeApi: 127.0.0.1 port ${peer.port} is held by another program`])
  })
})

describe('peers and devices', () => {
  const peerComplaints = async (): Promise<string[]> => (await complaints()).filter((text) => text.includes('peers'))

  it.each<[string, () => void, string]>([
    ['is not there', () => (config.peers[0]!.url = 'https://127.0.0.1:1'), 'nobody listens at 127.0.0.1:1'],
    [
      'has a name nobody knows',
      () => (config.peers[0]!.url = 'https://kme-b.invalid:1'),
      'the host name kme-b.invalid is not known',
    ],
    ['never answers', () => peer.answer('hang'), `no answer from localhost:`],
    ['refuses this KME', () => peer.answer({ status: 401 }), 'answered 401 to the greeting'],
    ['cuts other keys', () => peer.answer(json({ ...HELLO, unitSizeBits: 128 })), 'cuts keys of 128 bits, this KME of 256'],
    ['calls itself otherwise', () => peer.answer(json({ ...HELLO, kmeId: 'kme-x' })), 'calls itself kme-x'],
    ['speaks another protocol', () => peer.answer(json({ ...HELLO, protocol: 2 })), 'speaks protocol 2, this KME 1'],
    ['is no KME', () => peer.answer({ status: 200, body: 'hello' }), 'the greeting is not understood'],
  ])('finds a peer that %s', async (_, plant, text) => {
    plant()
    expect(await peerComplaints()).toEqual([expect.stringContaining(`fail peers: kme-b: ${text}`)])
  })

  it('finds a peer that is another KME', async () => {
    config.peers[0]!.id = 'kme-c'
    config.links = []
    expect(await peerComplaints()).toEqual([expect.stringContaining('is not that of kme-c')])
  })

  it('finds a peer that does not accept the certificate of this KME', async () => {
    const { certificate, key } = await issueFiles(pki, 'sae', 'alice')
    Object.assign(config.peerApi.tls, { certificate, privateKey: key })
    expect(await peerComplaints()).toEqual([expect.stringContaining('fail peers: kme-b: refused the certificate of this KME')])
  })

  it('finds a device that is not there', async () => {
    config.links[0]!.port = 1
    expect(await complaints()).toEqual([expect.stringMatching(/^fail links: a-b: no device at 127.0.0.1 port 1: .*ECONNREFUSED/)])
  })
})

describe('BB84 links', () => {
  let secret: string
  beforeEach(async () => {
    secret = join(pki.dir, 'a-b.authentication-key')
    await rm(secret, { force: true })
    await writePreSharedSecret(secret, 256, systemRandom)
  })
  const useBb84 = async (change: object = {}): Promise<void> => {
    const link = {
      ...{ id: 'a-b', peer: 'kme-b', driver: 'bb84', role: 'alice', profile: 'metro', authenticationKeyFile: secret },
      photons: { port: portOf(device) },
      classical: { port: await freePort() },
      ...change,
    }
    Object.assign(config, { links: [link] })
  }
  const check = async () => runProgram(['config', 'check', '--config', await writeConfig()])

  it('that have all they need give no complaint, at either end', async () => {
    await useBb84()
    expect(await complaints()).toEqual([])
    expect((await check()).status).toBe(0)
    await useBb84({ role: 'bob', classical: { port: portOf(device) } })
    expect(await complaints()).toEqual([])
  })

  it.each<[string, () => Promise<unknown>, string]>([
    ['missing', () => rm(secret), 'cannot be read; make one with "kme link new-secret FILE" and copy it to both ends'],
    ['open to others', () => chmod(secret, 0o644), 'others than its owner may read the pre-shared secret'],
    ['cut off', () => truncate(secret, 100), 'must hold 16 bytes and 256 to'],
  ])('whose authentication key is %s are named by doctor and config check', async (_how, spoil, reason) => {
    await useBb84()
    await spoil()
    expect(await complaints()).toEqual([expect.stringContaining('fail files: links[0].authenticationKeyFile: ')])
    expect(await complaints()).toEqual([expect.stringContaining(reason)])
    const { status, stderr } = await check()
    expect(status).toBe(1)
    expect(stderr).toContain('links[0].authenticationKeyFile: ')
    expect(stderr).toContain(reason)
  })

  it('are told of a quantum channel that is not there, a port that is taken, and an Alice that is not there yet', async () => {
    await useBb84({ photons: { port: 1 } })
    expect(await complaints()).toEqual([expect.stringMatching(/^fail links: a-b: no quantum channel at 127.0.0.1 port 1: /)])
    await useBb84({ classical: { port: portOf(device) } })
    expect(await complaints()).toEqual([expect.stringMatching(/^fail links: a-b: 127.0.0.1 port \d+: .*EADDRINUSE/)])
    await useBb84({ role: 'bob', classical: { port: 1 } })
    expect(await complaints()).toEqual([
      expect.stringMatching(/^warn links: a-b: Alice's station at 127.0.0.1 port 1 is not there: .*ECONNREFUSED/),
    ])
  })
})

it('reports a mistake in each part at once', async () => {
  await rm(files.tokenKey)
  await writeSecret(files.passphrase, 'wrong')
  config.links[0]!.port = 1
  peer.answer({ status: 401 })
  const checks = (await examine(await writeConfig(), systemClock, DEADLINE_MS)).filter(({ level }) => level === 'fail')
  expect(checks.map(({ check }: Finding) => check)).toEqual(['files', 'database', 'peers', 'links'])
})
