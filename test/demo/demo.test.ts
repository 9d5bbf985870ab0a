/** The demo network as a user meets it: one command, real processes, real mutual TLS. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { allPorts, DEFAULT_SHAPE, filesOf, layoutOf, portsOf } from '../../src/demo/layout.ts'
import { renewFiles } from '../../src/demo/prepare-files.ts'
import { requireFreePorts } from '../../src/demo/free-ports.ts'
import { parseConfig } from '../../src/config/config.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import { readRevocations } from '../../src/pki/revocation-list.ts'
import {
  eventually,
  finishDemo,
  get,
  getAs,
  isRunning,
  KME,
  makePlace,
  pidsOf,
  spawnDemo,
  startDemo,
  type Place,
  type RunningDemo,
} from './demo-process.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const run = promisify(execFile)
const LAYOUT = layoutOf(DEFAULT_SHAPE)
const NOT_FOUND = { message: 'one or more keys specified are not found on KME' }

describe('the demo network', () => {
  let place: Place
  let demo: RunningDemo
  /** Issued to alice and bob, fetched by nobody yet. */
  let waiting: { key_ID: string; key: string }

  /** A key for alice and bob. What a test before this one killed may be back for a moment only: kme-a asks kme-b again
   *  within three seconds, and answers 503 until then. */
  const issue = (): Promise<{ key_ID: string; key: string }> =>
    eventually('kme-a issues a key', async () => {
      const answer = await getAs(place, 'alice', 'bob/enc_keys')
      return answer.status === 200 ? (answer.json.keys[0] as { key_ID: string; key: string }) : undefined
    })

  beforeAll(async () => {
    place = await makePlace()
    demo = await startDemo(place)
  })
  afterAll(async () => {
    await demo?.stop('SIGTERM')
    place?.remove()
  })

  it('keeps its certificates, token, configuration and secrets in one directory that only its owner can use', () => {
    for (const sae of ['alice', 'bob', 'carol', 'mallory']) {
      expect(readFileSync(join(place.directory, `sae-${sae}.pem`), 'utf8')).toContain('BEGIN CERTIFICATE')
      expect(statSync(join(place.directory, `sae-${sae}.p12`)).size).toBeGreaterThan(500)
    }
    expect(readFileSync(join(place.directory, 'ca.pem'), 'utf8')).toContain('BEGIN CERTIFICATE')
    const secrets = [
      'admin-token',
      'sae-alice.key',
      'sae-alice.p12',
      'secrets/kme-a.passphrase',
      'secrets/kme-a.database-url',
      'secrets/a-b.authentication-key',
      'pki/kme-ca.key',
    ]
    for (const file of secrets) expect([file, statSync(join(place.directory, file)).mode & 0o777]).toEqual([file, 0o600])
    for (const kme of ['kme-a', 'kme-b', 'kme-c']) {
      const file = join(place.directory, `${kme}.yaml`)
      expect(parseConfig(readFileSync(file, 'utf8'), file).kme.id).toBe(kme)
    }
  })

  it('prints curl lines after READY that work as they are, one after the other', async () => {
    const lines = demo
      .printed()
      .split(/^READY$/m)[1]!
      .split('\n')
      .filter((line) => line.startsWith('curl '))
    const printed: string[] = []
    for (const line of lines) printed.push((await run('sh', ['-c', line])).stdout)
    const [issued, fetched, relayed, relayedFetched, status, links] = printed.map((text) => JSON.parse(text))
    expect(Buffer.from(issued.keys[0].key, 'base64')).toHaveLength(32)
    expect(fetched).toEqual(issued)
    expect(Buffer.from(relayed.keys[0].key, 'base64')).toHaveLength(32)
    expect(relayedFetched).toEqual(relayed)
    expect(status).toMatchObject({ source_KME_ID: 'kme-a', target_KME_ID: 'kme-b', master_SAE_ID: 'alice', slave_SAE_ID: 'bob' })
    expect(links.links[0]).toMatchObject({ linkId: 'a-b', driver: 'bb84', state: 'up' })
  })

  it('prints lines that show the link and let Eve in and out, which work as well', async () => {
    const lines = demo
      .printed()
      .split(/^READY$/m)[1]!
      .split('\n')
      .filter((line) => line.includes('npx kme '))
    const printed: string[] = []
    for (const line of lines)
      printed.push((await run('sh', ['-c', line.replace('npx kme', `"${process.execPath}" "${KME}"`)])).stdout)
    const [shown, intercepting, off] = printed
    expect(shown).toMatch(/link +a-b to kme-b, driver bb84/)
    expect(shown).toMatch(/key rate, expected +\d+ bit\/s/)
    expect(intercepting).toContain('Link a-b: Eve measures 25 % of the pulses')
    expect(intercepting).toContain('rests while its pool is full')
    expect(off).toContain('Link a-b: Eve is gone')
    expect(lines).toHaveLength(3)
  })

  it('gives both ends of each link the same key, once', async () => {
    for (const [master, slave] of [
      ['alice', 'bob'],
      ['bob', 'alice'],
      ['bob', 'carol'],
      ['carol', 'bob'],
      // By relay over kme-b.
      ['alice', 'carol'],
      ['carol', 'alice'],
    ] as const) {
      const issued = await getAs(place, master, `${slave}/enc_keys`)
      expect(issued.status).toBe(200)
      const path = `${master}/dec_keys?key_ID=${issued.json.keys[0].key_ID}`
      expect((await getAs(place, slave, path)).json).toEqual(issued.json)
      const again = await getAs(place, slave, path)
      expect([again.status, again.json]).toEqual([400, NOT_FOUND])
    }
  })

  it('tells mallory nothing: her slave looks unknown, and a key of alice is not hers', async () => {
    const forbidden = await getAs(place, 'mallory', 'bob/enc_keys')
    const unknown = await getAs(place, 'mallory', 'nobody/enc_keys')
    expect([forbidden.status, unknown.status]).toEqual([400, 400])
    expect(forbidden.text).toBe(unknown.text)
    // At her own KME, with a key of bob's that alice could fetch there.
    const issued = await getAs(place, 'bob', 'alice/enc_keys')
    const stolen = await getAs(place, 'mallory', `bob/dec_keys?key_ID=${issued.json.keys[0].key_ID}`)
    expect([stolen.status, stolen.text]).toEqual([401, ''])
    const ofAlice = await issue()
    const [atA, atB] = await Promise.all([
      getAs(place, 'mallory', `alice/dec_keys?key_ID=${ofAlice.key_ID}`),
      get(place, portsOf(place.basePort, 'kme-b').sae, `/api/v1/keys/alice/dec_keys?key_ID=${ofAlice.key_ID}`, {
        cert: readFileSync(join(place.directory, 'sae-mallory.pem')),
        key: readFileSync(join(place.directory, 'sae-mallory.key')),
      }),
    ])
    expect([atA.status, atA.text, atB.status, atB.text]).toEqual([401, '', 401, ''])
  })

  it('does not answer a certificate of another authority', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'openkme-other-ca-'))
    try {
      const others = await createAuthorities(directory, { clock: systemClock, random: systemRandom })
      const { certificatePem, privateKeyPem } = await others.issue({ profile: 'sae', id: 'alice' })
      const port = portsOf(place.basePort, 'kme-a').sae
      const asked = get(place, port, '/api/v1/keys/bob/status', { cert: certificatePem, key: privateKeyPem })
      await expect(asked).rejects.toThrow()
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('accepts the admin token on every admin API', async () => {
    const token = readFileSync(join(place.directory, 'admin-token'), 'utf8')
    for (const kme of ['kme-a', 'kme-b', 'kme-c'] as const) {
      const answer = await get(place, portsOf(place.basePort, kme).admin, '/api/v1/kme', { token })
      expect([answer.status, answer.json.kmeId]).toEqual([200, kme])
    }
  })

  it('refuses a second demo, a reset and a preparation on the same directory, and names ports in use', async () => {
    for (const args of [[], ['--reset'], ['--prepare-only']]) {
      const { status, text } = await finishDemo(place, ...args)
      expect([status, text]).toEqual([1, expect.stringContaining('is running on')])
    }
    const elsewhere = await finishDemo({ directory: join(place.directory, 'other'), basePort: place.basePort })
    expect(elsewhere.status).toBe(1)
    expect(elsewhere.text).toContain(String(place.basePort + 1))
    expect(elsewhere.text).toContain('KME_DEMO_PORT')
  })

  it('starts kme-b again after kill -9, and bob still gets the key issued before', async () => {
    const key = await issue()
    const before = pidsOf(place)
    process.kill(before['kme-b']!, 'SIGKILL')
    await eventually('kme-b runs again', () => ![undefined, before['kme-b']].includes(pidsOf(place)['kme-b']))
    await eventually('it says so', () => demo.printed().includes('kme-b ended (SIGKILL)'))
    const path = `alice/dec_keys?key_ID=${key.key_ID}`
    const fetched = await untilAnswered(() => getAs(place, 'bob', path))
    expect([fetched.status, fetched.json]).toEqual([200, { keys: [key] }])
    const { 'kme-b': _new, ...others } = pidsOf(place)
    const { 'kme-b': _old, ...othersBefore } = before
    expect(others).toEqual(othersBefore)
  })

  it('starts PostgreSQL again after kill -9, and goes on issuing', async () => {
    const before = pidsOf(place)
    const key = await issue()
    process.kill(before['postgres']!, 'SIGKILL')
    await eventually('PostgreSQL runs again', () => ![undefined, before['postgres']].includes(pidsOf(place)['postgres']))
    await eventually('keys again', async () => (await getAs(place, 'alice', 'bob/enc_keys')).status === 200)
    const fetched = await untilAnswered(() => getAs(place, 'bob', `alice/dec_keys?key_ID=${key.key_ID}`))
    expect(fetched.json).toEqual({ keys: [key] })
  })

  it('stops within ten seconds, leaves nothing running, and goes on with the same keys', async () => {
    waiting = await issue()
    const pids = Object.values(pidsOf(place))
    const { status, tookMs } = await demo.stop('SIGTERM', 'SIGINT')
    expect(status).toBe(0)
    expect(tookMs).toBeLessThan(timeLimitMs(10_000))
    expect(pids.filter(isRunning)).toEqual([])

    demo = await startDemo(place)
    const fetched = await getAs(place, 'bob', `alice/dec_keys?key_ID=${waiting.key_ID}`)
    expect([fetched.status, fetched.json]).toEqual([200, { keys: [waiting] }])
  })

  it('leaves nothing running when it is killed with -9, so that it can be started again at once', async () => {
    const pids = Object.values(pidsOf(place))
    expect(pids).toHaveLength(7)
    await demo.stop('SIGKILL')
    await eventually('every child has ended', () => !pids.some(isRunning), timeLimitMs(10_000))
    await requireFreePorts(place.basePort, LAYOUT)

    // Without waiting for READY: a stop in the middle of a start is a stop as well.
    const again = await startedUpTo(place, 'quantum channels and KMEs')
    const { status, tookMs } = await again.stop('SIGINT')
    expect(status).toBe(0)
    expect(tookMs).toBeLessThan(timeLimitMs(10_000))
    await requireFreePorts(place.basePort, LAYOUT)
  })
})

describe('the files of the demo network', () => {
  let place: Place
  beforeAll(async () => {
    place = await makePlace()
  })
  afterAll(() => place?.remove())

  it('are made without starting anything, and kept by the next start', async () => {
    expect((await finishDemo(place, '--prepare-only')).status).toBe(0)
    const kept = ['ca.pem', 'sae-alice.pem', 'sae-alice.p12', 'pki/issued/kme-kme-a.pem', 'secrets/kme-b.passphrase']
    const read = (): string[] => kept.map((file) => readFileSync(join(place.directory, file), 'latin1'))
    const before = read()
    const list = readFileSync(join(place.directory, 'pki/sae-ca.crl.pem'), 'utf8')
    rmSync(join(place.directory, 'sae-bob.p12'))
    expect((await finishDemo({ ...place, basePort: place.basePort + 100 }, '--prepare-only')).status).toBe(0)
    expect(read()).toEqual(before)
    expect(readFileSync(join(place.directory, 'pki/sae-ca.crl.pem'), 'utf8')).not.toBe(list)
    expect(statSync(join(place.directory, 'sae-bob.p12')).size).toBeGreaterThan(500)
    expect(readFileSync(join(place.directory, 'kme-a.yaml'), 'utf8')).toContain(`port: ${place.basePort + 101}\n`)
  })

  it('are renewed while the demo runs, before token and revocation lists run out', async () => {
    const files = filesOf(place.directory)
    const read = () => {
      const [, claims] = readFileSync(files.adminToken, 'utf8').split('.')
      const list = readRevocations(readFileSync(join(files.pki, 'kme-ca.crl.pem'), 'utf8'))
      const { exp } = JSON.parse(Buffer.from(claims!, 'base64url').toString())
      return { tokenEndsS: exp as number, listEndsMs: list.nextUpdateMs }
    }
    const before = read()
    const sixHoursMs = 6 * 3_600_000
    await renewFiles(files, {
      random: systemRandom,
      clock: { ...systemClock, nowMs: () => systemClock.nowMs() + sixHoursMs },
    })
    expect(read().tokenEndsS - before.tokenEndsS).toBeGreaterThanOrEqual(sixHoursMs / 1000)
    expect(read().listEndsMs - before.listEndsMs).toBeGreaterThanOrEqual(sixHoursMs)
  })

  it('name services and take every address in containers', async () => {
    expect((await finishDemo(place, '--prepare-only', '--containers')).status).toBe(0)
    const file = join(place.directory, 'kme-b.yaml')
    const config = parseConfig(readFileSync(file, 'utf8'), file)
    expect([config.saeApi.host, config.peerApi.host, config.adminApi.host]).toEqual(['0.0.0.0', '0.0.0.0', '0.0.0.0'])
    expect(config.peers.map(({ url }) => new URL(url).hostname)).toEqual(['kme-a', 'kme-c'])
    expect(config.links).toMatchObject([
      { id: 'a-b', driver: 'tcp', host: 'devices-ab', port: 7002 },
      { id: 'b-c', driver: 'tcp', host: 'devices-bc', port: 7001 },
    ])
    expect(config.database.urlFile).toBeUndefined()
  })

  it('are new after a reset, which touches nothing but a demo', async () => {
    const before = readFileSync(join(place.directory, 'ca.pem'), 'utf8')
    expect((await finishDemo(place, '--reset', '--prepare-only')).status).toBe(0)
    expect(readFileSync(join(place.directory, 'ca.pem'), 'utf8')).not.toBe(before)

    const mine = mkdtempSync(join(tmpdir(), 'openkme-not-a-demo-'))
    writeFileSync(join(mine, 'thesis.txt'), 'years of work')
    const { status, text } = await finishDemo({ ...place, directory: mine }, '--reset', '--prepare-only')
    expect([status, text]).toEqual([1, expect.stringContaining('does not hold a demo network')])
    expect(readFileSync(join(mine, 'thesis.txt'), 'utf8')).toBe('years of work')
    rmSync(mine, { recursive: true })
  })

  it('are not asked for when a port is in use: the port is named', async () => {
    const taken = allPorts(place.basePort, LAYOUT).at(-1)!
    const holder = createServer().listen(taken, '127.0.0.1')
    await once(holder, 'listening')
    const { status, text } = await finishDemo(place)
    holder.close()
    expect([status, text]).toEqual([1, expect.stringContaining(`Port ${taken} on 127.0.0.1 is in use`)])
  })
})

/** Asks until there is an HTTP answer that is not 503. */
const untilAnswered = async <T extends { status: number }>(ask: () => Promise<T>): Promise<T> => {
  let answer: T | undefined
  await eventually('an answer', async () => {
    answer = await ask().catch(() => undefined)
    return answer !== undefined && answer.status !== 503
  })
  return answer!
}

const startedUpTo = async (place: Place, text: string): Promise<RunningDemo> => {
  const demo = spawnDemo(place)
  await eventually(text, () => demo.printed().includes(text))
  return demo
}
