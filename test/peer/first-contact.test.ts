/** Whose certificate a KME takes for that of its peer, and how operators of two sites that share no secret say so. And the time before
 *  both ends speak sessions. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { afterEach, describe, expect, it } from '@jest/globals'
import { peerPaths } from '../../src/peer/wire.ts'
import { eventually, startNetwork, storedKeys, type KmeName, type Network, type NetworkOptions } from '../network/network.ts'
import { createSessionSpeaker } from './session-speaker.ts'

let network: Network
afterEach(async () => {
  await network?.[Symbol.asyncDispose]()
})
const start = async (options: NetworkOptions): Promise<void> => {
  network = await startNetwork(options)
}
const fingerprintOf = (pem: string): string => new X509Certificate(pem).fingerprint256
const certificateOf = (name: KmeName): string => readFileSync(`${network.directory}/${name}.pem`, 'utf8')
const alarm = async (name: string): Promise<{ text: string } | undefined> => {
  const { json } = await (await network.admin('kme-a')).get('/api/v1/alarms')
  return (json['alarms'] as { name: string; text: string; clearedAt: string | null }[]).find(
    (each) => each.name === name && each.clearedAt === null,
  )
}
const say = async (verb: 'approve' | 'withdraw' | 'rekey', fingerprint?: string, peer = 'kme-b') =>
  (await network.admin('kme-a')).post(`/api/v1/peers/${peer}/${verb}`, fingerprint === undefined ? {} : { fingerprint })
const keysFlow = (): Promise<unknown> =>
  eventually('keys can be had at both', async () => {
    const [alice, bob] = [await network.sae('alice'), await network.sae('bob')]
    const answers = [await alice.post('/api/v1/keys/bob/enc_keys', {}), await bob.post('/api/v1/keys/alice/enc_keys', {})]
    alice.close()
    bob.close()
    return answers.every(({ status }) => status === 200)
  })
const sessions = async (where = ''): Promise<{ id: string; ended: boolean }[]> =>
  network.query('kme-b', `SELECT session_id AS id, ended_at IS NOT NULL AS ended FROM peer_session ${where} ORDER BY opened_at`)

describe('with firstContact: approval', () => {
  it('nothing is said before the operator approved the certificate, and nothing after it was withdrawn', async () => {
    await start({ startEmpty: true, peer: (name) => (name === 'kme-a' ? { firstContact: 'approval' } : {}) })
    const fingerprint = fingerprintOf(certificateOf('kme-b'))
    const seen = await eventually('an alarm', () => alarm('peer.not-approved:kme-b'))
    expect(seen.text).toContain(fingerprint)
    expect(await sessions()).toEqual([])
    expect(await storedKeys(await network.sae('alice'), 'bob')).toBe(0)

    const approved = await say('approve', fingerprint.replaceAll(':', '').toLowerCase())
    expect(approved.json).toMatchObject({ kmeId: 'kme-b', certificates: [{ fingerprint, from: 'operator' }] })
    await keysFlow()

    const withdrawn = await say('withdraw', fingerprint)
    expect(withdrawn.json).toMatchObject({ certificates: [] })
    await eventually(
      'kme-a is alone',
      async () => (await (await network.sae('alice')).post('/api/v1/keys/bob/enc_keys', {})).status === 503,
    )
    await eventually('all sessions at kme-b ended', async () => (await sessions()).every(({ ended }) => ended))
    const audited = await network.query<{ actor: string; subject: object }>(
      'kme-a',
      `SELECT actor, subject FROM audit_record WHERE event = 'peer.changed' ORDER BY seq`,
    )
    expect(audited).toEqual([
      { actor: 'admin:tester', subject: { peerKmeId: 'kme-b', change: 'approved', fingerprint } },
      { actor: 'admin:tester', subject: { peerKmeId: 'kme-b', change: 'withdrawn', fingerprint } },
    ])
  })
})

describe('an approved certificate', () => {
  it('is the only good one from then on: another of the same name and authority is refused, calling and called', async () => {
    await start({})
    await keysFlow()
    expect((await say('approve', fingerprintOf(certificateOf('kme-b')))).status).toBe(200)
    const other = await network.authorities.issue({ profile: 'kme', id: 'kme-b', hosts: ['localhost', '127.0.0.1'] })
    const thief = createSessionSpeaker({
      port: network.ports.get('kme-a')!.peer,
      cert: other.certificatePem,
      key: other.privateKeyPem,
      ca: network.authorities.certificatePem.kme,
      from: 'kme-b',
      to: 'kme-a',
    })
    expect((await thief.raw('GET', peerPaths.hello)).status).toBe(401)
    await expect(thief.open()).rejects.toThrow('401')
    thief.hangUp()
    expect((await eventually('an alarm', () => alarm('peer.not-approved:kme-b'))).text).toContain(
      fingerprintOf(other.certificatePem),
    )

    // kme-b itself comes with the new certificate, which the operator did not hear of.
    await network.stop('kme-b')
    writeFileSync(`${network.directory}/kme-b.pem`, other.certificatePem)
    writeFileSync(`${network.directory}/kme-b.key`, other.privateKeyPem)
    await network.start('kme-b')
    await eventually('kme-a is alone', async () => (await storedKeys(await network.sae('alice'), 'bob')) === 0)
    await say('approve', fingerprintOf(other.certificatePem))
    await keysFlow()
  })

  it.each([
    ['no fingerprint', {}],
    ['a short one', { fingerprint: 'AA:BB' }],
    ['more than one thing', { fingerprint: 'a'.repeat(64), force: true }],
  ])('is not approved with %s', async (_, body) => {
    await start({ startEmpty: true })
    const admin = await network.admin('kme-a')
    expect((await admin.post('/api/v1/peers/kme-b/approve', body)).status).toBe(400)
    expect((await admin.post('/api/v1/peers/kme-c/approve', { fingerprint: 'a'.repeat(64) })).status).toBe(404)
    expect((await admin.get('/api/v1/peers')).json).toMatchObject({ peers: [{ certificates: null }] })
  })
})

describe('a certificate in the configuration', () => {
  it('is the only good one', async () => {
    await start({ startEmpty: true, peer: () => ({ certificateFingerprints: ['ab'.repeat(32)] }) })
    const { json } = await (await network.admin('kme-a')).get('/api/v1/peers')
    expect(json).toMatchObject({
      peers: [{ certificates: [{ fingerprint: Array(32).fill('AB').join(':'), from: 'configuration' }] }],
    })
    await eventually('an alarm', () => alarm('peer.not-approved:kme-b'))
    expect(await storedKeys(await network.sae('alice'), 'bob')).toBe(0)
  })
})

describe('kme peer rekey', () => {
  it('at one end replaces the keys of both directions, and no request fails', async () => {
    await start({})
    await keysFlow()
    const open = async (): Promise<string[]> => (await sessions('WHERE ended_at IS NULL')).map(({ id }) => id)
    const before = await open()
    expect(before).not.toEqual([])
    expect((await say('rekey')).status).toBe(200)
    const alice = await network.sae('alice')
    await eventually('new keys', async () => {
      expect((await alice.post('/api/v1/keys/bob/enc_keys', {})).status).toBe(200)
      return (await open()).some((id) => !before.includes(id))
    })
  })
})

describe('a QKD key in the keys of sessions', () => {
  const withKey = async (): Promise<boolean[]> =>
    (await network.query<{ with: boolean }>('kme-b', 'SELECT with_qkd_key AS with FROM peer_session ORDER BY opened_at')).map(
      (session) => session.with,
    )

  it('is mixed in as soon as there is one and the keys are replaced', async () => {
    await start({})
    await keysFlow()
    await say('rekey')
    await eventually('sessions with it', async () => {
      await keysFlow()
      return (await withKey()).at(-1)
    })
  })

  it('that is required: the first block is agreed without, all else comes with it', async () => {
    await start({ peer: () => ({ mixQkdKey: 'require' }) })
    await keysFlow()
    expect(new Set(await withKey())).toEqual(new Set([false, true]))
    const refused = await network.query('kme-b', `SELECT subject FROM audit_record WHERE event = 'peer.refused'`)
    expect(refused).toEqual([])
  })

  it('that is required at one end only: what comes without is refused there', async () => {
    await start({ startEmpty: true, peer: (name) => ({ mixQkdKey: name === 'kme-b' ? 'require' : 'off' }) })
    const alice = await network.sae('alice')
    expect((await alice.post('/api/v1/keys/bob/enc_keys', {})).status).toBe(503)
    network.devices.resume()
    await eventually('a refusal', async () => {
      await alice.post('/api/v1/keys/bob/enc_keys', {})
      const [row] = await network.query<{ reason: string }>(
        'kme-b',
        `SELECT subject ->> 'reason' AS reason FROM audit_record WHERE event = 'peer.refused' LIMIT 1`,
      )
      return row?.reason === 'no-qkd-key'
    })
  })
})

describe('sessions: off', () => {
  const unsealed = async (name: KmeName): Promise<number> => {
    const from = name === 'kme-a' ? 'kme-b' : 'kme-a'
    const speaker = createSessionSpeaker({
      port: network.ports.get(name)!.peer,
      cert: certificateOf(from),
      key: readFileSync(`${network.directory}/${from}.key`, 'utf8'),
      ca: network.authorities.certificatePem.kme,
      from,
      to: name,
    })
    const { status } = await speaker.raw(
      'POST',
      peerPaths.aborts,
      JSON.stringify({ calls: [{ aid: '3f0c1c2e-8f4d-4d8e-9a51-0f2a6f4b7c11' }] }),
    )
    speaker.hangUp()
    return status
  }

  it('at both ends lets them work without', async () => {
    await start({ peer: () => ({ sessions: 'off' }) })
    await keysFlow()
    expect(await sessions()).toEqual([])
    expect(await unsealed('kme-a')).toBe(200)
  })

  it('at one end only: the other takes nothing without a seal', async () => {
    await start({ startEmpty: true, peer: (name) => ({ sessions: name === 'kme-a' ? 'off' : 'required' }) })
    expect(await unsealed('kme-b')).toBe(401)
    expect(await unsealed('kme-a')).toBe(200)
    const alice = await network.sae('alice')
    expect((await alice.post('/api/v1/keys/bob/enc_keys', {})).status).toBe(503)
  })
})
