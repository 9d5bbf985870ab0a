/** Two whole KMEs tell each other of their links; one of them is then played by somebody with its certificate. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { readFileSync } from 'node:fs'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import type { SignedStatement } from '../../src/peer/peer.ts'
import { peerPaths, writeStatements } from '../../src/peer/wire.ts'
import { signStatement } from '../../src/topology/statement.ts'
import type { LinkStateStatement } from '../../src/topology/topology.ts'
import { createContract } from '../openapi/contract.ts'
import { createSessionSpeaker } from '../peer/session-speaker.ts'
import { eventually, startNetwork, type KmeName, type Network } from './network.ts'

const contract = createContract('openapi/admin.yaml')

interface Topology {
  readonly kmes: readonly { readonly kmeId: string; readonly sequence: number; readonly route: readonly string[] | null }[]
  readonly links: readonly { readonly linkId: string; readonly state: string; readonly availableKeys: number }[]
}

let network: Network
beforeAll(async () => {
  network = await startNetwork()
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
})

const topologyOf = async (name: KmeName): Promise<Topology> => {
  const client = await network.admin(name)
  const { status, headers, text, json } = await client.get('/api/v1/topology')
  contract.checkResponse('GET', '/api/v1/topology', status, headers['content-type'] as string, text)
  client.close()
  return json as unknown as Topology
}
const isKnown = async (name: KmeName, state: string): Promise<boolean> => {
  const { kmes, links } = await topologyOf(name)
  return kmes.length === 2 && links.length === 1 && links[0]!.state === state
}

describe('two KMEs', () => {
  it('know each other and the link between them, with the keys they share', async () => {
    for (const name of ['kme-a', 'kme-b'] as const) {
      await eventually(`${name} knows the link`, async () => {
        const { links } = await topologyOf(name)
        return links.length === 1 && links[0]!.state === 'up' && links[0]!.availableKeys > 0
      })
    }
    const { kmes } = await topologyOf('kme-a')
    expect(kmes.map(({ kmeId, route }) => [kmeId, route])).toEqual([
      ['kme-a', ['kme-a']],
      ['kme-b', ['kme-a', 'kme-b']],
    ])
    const metrics = (await (await network.admin('kme-a')).get('/metrics')).text
    expect(metrics).toContain('kme_topology_kmes{reachable="yes"} 2')
    expect(metrics).toMatch(/kme_topology_messages_total\{direction="sent",kind="statements"\} [1-9]/)
    expect(metrics).toMatch(/kme_topology_statements_total\{outcome="accepted"\} [1-9]/)
  })

  it('see the link down when one of them is gone, and the other one knows so after a restart of its own', async () => {
    await network.stop('kme-b')
    await eventually('kme-a sees the link down', () => isKnown('kme-a', 'down'))
    const before = await topologyOf('kme-a')
    await network.stop('kme-a')
    await network.start('kme-a')
    // kme-b does not answer: what it said is what kme-a kept.
    const after = await topologyOf('kme-a')
    expect(after.kmes.find(({ kmeId }) => kmeId === 'kme-b')).toEqual(before.kmes.find(({ kmeId }) => kmeId === 'kme-b'))
    await network.start('kme-b')
    for (const name of ['kme-a', 'kme-b'] as const) await eventually(`${name} sees the link up`, () => isKnown(name, 'up'))
    const again = await topologyOf('kme-b')
    for (const { kmeId, sequence } of before.kmes)
      expect(again.kmes.find((one) => one.kmeId === kmeId)!.sequence).toBeGreaterThanOrEqual(sequence)
  })
})

describe('a peer with a good certificate', () => {
  const own = (name: string) => readFileSync(`${network.directory}/${name}`, 'utf8')
  const speak = () =>
    createSessionSpeaker({
      port: network.ports.get('kme-a')!.peer,
      cert: own('kme-b.pem'),
      key: own('kme-b.key'),
      ca: network.authorities.certificatePem.kme,
      from: 'kme-b',
      to: 'kme-a',
    })
  const say = async (statement: object): Promise<number> => {
    const speaker = speak()
    const { status } = await speaker.say('POST', peerPaths.statements, { statements: [statement] })
    speaker.hangUp()
    return status
  }
  const onWire = (signed: SignedStatement): Record<string, unknown> =>
    (writeStatements([signed]) as { statements: Record<string, unknown>[] }).statements[0]!
  const sign = (changes: Partial<LinkStateStatement>, by: KmeName = 'kme-b'): SignedStatement =>
    signStatement(
      { version: 1, kmeId: 'kme-b' as KmeId, sequence: 2 ** 40, issuedAtMs: Date.now(), validForS: 900, links: [], ...changes },
      { certificatePem: own(`${by}.pem`), privateKeyPem: own(`${by}.key`) },
    )
  const rows = () =>
    network.query<{ kme_id: string; sequence: string }>(
      'kme-a',
      'SELECT kme_id, sequence::text FROM topology_statement ORDER BY kme_id',
    )
  const refusals = async (): Promise<readonly string[]> =>
    (
      await network.query<{ reason: string }>(
        'kme-a',
        `SELECT subject ->> 'reason' AS reason FROM audit_record WHERE event = 'peer.refused' AND actor = 'kme:kme-b' ORDER BY seq`,
      )
    ).map(({ reason }) => reason)

  it.each<[string, () => object, string]>([
    ['P28 an unsigned statement', () => ({ ...onWire(sign({})), signature: undefined }), 'malformed'],
    ['P28 an old one', () => onWire(sign({ sequence: 1, issuedAtMs: Date.now() - 60_000 })), 'older'],
    ['one in the name of this KME', () => onWire(sign({ kmeId: 'kme-a' as KmeId })), "signed by another KME's key"],
    ['one in the name of a third KME', () => onWire(sign({ kmeId: 'kme-c' as KmeId })), "signed by another KME's key"],
    ['one from the future', () => onWire(sign({ issuedAtMs: Date.now() + 60_000 })), 'issued in the future'],
    [
      'one with a changed link',
      () => ({ ...onWire(sign({})), statement: sign({ sequence: 2 ** 41 }).statement }),
      'wrong signature',
    ],
    ['one of a huge number', () => onWire(sign({})), 'sequence number far ahead of its time'],
    ['one that is too large', () => ({ ...onWire(sign({})), statement: ' '.repeat(40_000) }), 'malformed'],
  ])('who sends %s changes nothing, and one record and an alarm say so', async (_, make, reason) => {
    const [before, refusedBefore] = [await rows(), await refusals()]
    const refused = async (): Promise<string[]> => (await refusals()).slice(refusedBefore.length)
    expect(await say(make())).toBe(200)
    // Statements may cross: of one that is older than one that just came nothing is told. kme-b says something new now and then.
    if (reason === 'older') {
      await eventually('it is told', async () => {
        if ((await refused()).length > 0) return true
        await say(make())
        return false
      })
    }
    const after = await rows()
    expect(after.map((row) => row.kme_id)).toEqual(before.map((row) => row.kme_id))
    // The KMEs themselves go on and may say something new meanwhile; every number here is far from theirs.
    after.forEach(({ sequence }, i) => {
      expect(Number(sequence) - Number(before[i]!.sequence)).toBeGreaterThanOrEqual(0)
      expect(Number(sequence) - Number(before[i]!.sequence)).toBeLessThan(3600)
    })
    expect(await refused()).toEqual([reason])
    const admin = await network.admin('kme-a')
    await eventually('the alarm', async () =>
      ((await admin.get('/api/v1/alarms')).json['alarms'] as { name: string }[]).some(
        ({ name }) => name === 'topology.refused:kme-b',
      ),
    )
    admin.close()
  })

  it.each<[string, () => object, string[]]>([
    ['more statements than fit', () => ({ statements: Array.from({ length: 65 }, () => onWire(sign({}))) }), ['malformed']],
    ['no statements at all', () => ({ state: 1 }), ['malformed']],
    // The listener does not let it in.
    ['a message of megabytes', () => ({ statements: [' '.repeat(5_000_000)] }), ['malformed']],
  ])('who sends %s is answered 400 and changes nothing', async (_, make, reasons) => {
    const [before, refusedBefore] = [await rows(), await refusals()]
    const speaker = speak()
    const { status } = await speaker.say('POST', peerPaths.statements, make())
    speaker.hangUp()
    expect(status).toBe(400)
    await eventually('a record', async () => (await refusals()).length > refusedBefore.length)
    expect((await refusals()).slice(refusedBefore.length)).toEqual(reasons)
    expect((await rows()).map((row) => row.kme_id)).toEqual(before.map((row) => row.kme_id))
  })

  it('that speaks of links the other end knows nothing of is believed, and the links do not count', async () => {
    const links = [{ linkId: 'b-x' as LinkId, peerKmeId: 'kme-x' as KmeId, availableKeys: 1024, keyRateBps: 1024, up: true }]
    await say(onWire(sign({ links, sequence: Math.floor(Date.now() / 1000) + 1000 })))
    const known = (await topologyOf('kme-a')).links
    expect(known.find(({ linkId }) => linkId === 'b-x')?.state).toBe('one-sided')
    // The real kme-b hears of what was said in its name, and says better.
    await eventually('kme-b has the last word', async () => {
      const { links: now } = await topologyOf('kme-a')
      return now.length === 1 && now[0]!.state === 'up'
    })
  })
})
