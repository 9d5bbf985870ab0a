/** What a KME takes in of the network, and what it refuses: real certificates, a store in memory. */
import { beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { createPrivateKey, sign, X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AuditEvent } from '../../src/audit/audit.ts'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { SignedStatement } from '../../src/peer/peer.ts'
import { readStatements, writeStatements } from '../../src/peer/wire.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import type { CertificateAuthorities, IssuedCertificate } from '../../src/pki/pki.ts'
import { readRevocations } from '../../src/pki/revocation-list.ts'
import { createLinkStateDatabase, type LinkStateDatabase } from '../../src/topology/link-state-database.ts'
import { createSignerVerifier } from '../../src/topology/signer.ts'
import { readStatement, signStatement, writeStatement } from '../../src/topology/statement.ts'
import type { LinkStateStatement } from '../../src/topology/topology.ts'
import { readFileSync } from 'node:fs'
import { FakeClock } from '../admin/admin-world.ts'
import { createMemoryTopologyStore } from './memory-topology-store.ts'

const A = 'kme-a' as KmeId
const B = 'kme-b' as KmeId
const PEER = 'kme-p' as KmeId

let authorities: CertificateAuthorities
let a: IssuedCertificate
let b: IssuedCertificate
let clock: FakeClock

const certificateOf = (name: string, keyType?: 'ed25519') =>
  authorities.issue({ profile: 'kme', id: name, ...(keyType && { keyType }) })

beforeAll(async () => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-topology-'))
  try {
    // Certificates are made for the time of the fake clock.
    authorities = await createAuthorities(directory, { clock: new FakeClock(), random: systemRandom })
    a = await certificateOf('kme-a')
    b = await certificateOf('kme-b')
    await prepareOthers()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

let ed25519: IssuedCertificate
let strangerCertificate: IssuedCertificate
let saeCertificate: IssuedCertificate
let revoked: IssuedCertificate
let revokedSerials: ReadonlySet<string>
const prepareOthers = async (): Promise<void> => {
  ed25519 = await certificateOf('kme-a', 'ed25519')
  saeCertificate = await authorities.issue({ profile: 'sae', id: 'kme-a' })
  const strangers = mkdtempSync(join(tmpdir(), 'openkme-strangers-'))
  const other = await createAuthorities(strangers, { clock: new FakeClock(), random: systemRandom })
  strangerCertificate = await other.issue({ profile: 'kme', id: 'kme-a' })
  rmSync(strangers, { recursive: true, force: true })
  revoked = await certificateOf('kme-r')
  await authorities.revoke(revoked.serial)
  revokedSerials = readRevocations(readFileSync(authorities.files.kme.revocationList, 'utf8')).revokedSerials
}

let database: LinkStateDatabase
let store: ReturnType<typeof createMemoryTopologyStore>
let audited: AuditEvent[]
let raised: string[]
let isRevoked: (serial: string) => boolean
let accepts: (kmeId: KmeId, fingerprint256: string) => boolean

const openDatabase = (): LinkStateDatabase =>
  createLinkStateDatabase({
    store,
    verifier: createSignerVerifier({
      trust: {
        caPem: () => authorities.certificatePem.kme,
        isRevoked: (serial) => isRevoked(serial),
        accepts: (kmeId, fingerprint256) => accepts(kmeId, fingerprint256),
      },
      clock,
    }),
    audit: { append: async (event) => void audited.push(event) },
    alarms: { raise: (name) => void raised.push(name) },
    clock,
  })

beforeEach(() => {
  clock = new FakeClock()
  store = createMemoryTopologyStore()
  audited = []
  raised = []
  isRevoked = (serial) => revokedSerials.has(serial)
  accepts = () => true
  database = openDatabase()
})

const link = { linkId: 'a-b' as LinkId, peerKmeId: B, availableKeys: 64, keyRateBps: 1024, up: true }
const statement = (changes: Partial<LinkStateStatement> = {}): LinkStateStatement => ({
  version: 1,
  kmeId: A,
  sequence: 10,
  issuedAtMs: clock.nowMs(),
  validForS: 900,
  links: [link],
  ...changes,
})
const signed = (changes: Partial<LinkStateStatement> = {}, by = a): SignedStatement => signStatement(statement(changes), by)
/** Signs any text at all. */
const signText = (text: string): SignedStatement => ({
  ...signed(),
  statement: text,
  signature: sign('sha256', Buffer.from(`openkme topology 1|${text}`), createPrivateKey(a.privateKeyPem)),
})
const accept = async (offered: SignedStatement | undefined, from: KmeId) => (await database.accept(offered, from)).outcome
const stateOf = () => ({ rows: new Map(store.rows), current: database.current(), sequences: database.sequences() })
const expectRefused = async (offered: SignedStatement | undefined, reason: string): Promise<void> => {
  const before = stateOf()
  expect(await accept(offered, PEER)).toBe('refused')
  expect(stateOf()).toEqual(before)
  expect(audited).toEqual([
    expect.objectContaining({
      event: 'peer.refused',
      actor: 'kme:kme-p',
      outcome: 'refused',
      subject: expect.objectContaining({ call: 'topology', reason }) as unknown,
    }),
  ])
  expect(raised).toEqual(['topology.refused:kme-p'])
}

describe('a statement', () => {
  it('has one form of bytes whatever the order of its links, and is read back from it', () => {
    const other = { ...link, linkId: 'a-c' as LinkId }
    const text = writeStatement(statement({ links: [other, link] }))
    expect(text).toBe(writeStatement(statement({ links: [link, other] })))
    expect(readStatement(text)).toEqual(statement({ links: [link, other] }))
  })
  it('is accepted when its KME signed it, with a P-256 or an Ed25519 key', async () => {
    expect(await accept(signed(), PEER)).toBe('accepted')
    expect(await accept(signed({ sequence: 11 }, ed25519), PEER)).toBe('accepted')
    expect(database.current()).toEqual([statement({ sequence: 11 })])
    expect(audited).toEqual([])
  })
  it('survives the wire', async () => {
    const [read] = readStatements(JSON.parse(JSON.stringify(writeStatements([signed()]))))
    expect(await accept(read, PEER)).toBe('accepted')
  })
  it('that is known already changes nothing and alarms nobody', async () => {
    const offered = signed()
    await accept(offered, PEER)
    const before = stateOf()
    expect(await accept(offered, PEER)).toBe('known')
    expect(await accept({ ...offered, signature: Buffer.from('other') }, PEER)).toBe('known')
    expect(stateOf()).toEqual(before)
    expect(audited).toEqual([])
  })
  it('that a newer one overtook changes nothing and alarms nobody', async () => {
    const older = signed()
    await accept(signed({ sequence: 11 }), PEER)
    const before = stateOf()
    expect(await accept(older, PEER)).toBe('known')
    expect(stateOf()).toEqual(before)
    expect(audited).toEqual([])
  })
  it('is known to a process that starts later, and to one that looks again', async () => {
    const other = openDatabase()
    await accept(signed(), PEER)
    const late = openDatabase()
    await late.load()
    expect(late.current()).toEqual([statement()])
    await other.refresh()
    expect(other.current()).toEqual([statement()])
  })
  it('stays when the store answers late for an older one', async () => {
    const answers: (() => void)[] = []
    const put = async (): Promise<boolean> => {
      await new Promise<void>((resolve) => answers.push(resolve))
      return true
    }
    store = Object.assign(createMemoryTopologyStore(), { put })
    database = openDatabase()
    const both = [accept(signed(), PEER), accept(signed({ sequence: 11 }), PEER)]
    answers[1]!()
    await both[1]
    answers[0]!()
    await both[0]
    expect(database.sequences()).toEqual(new Map([[A, 11]]))
  })
  it('that a spoiled store holds is left out', async () => {
    const { statement: text, ...rest } = signed()
    await store.put({ kmeId: A, sequence: 10, signed: { ...rest, statement: text.replace('64', '65') } })
    await database.load()
    expect(database.current()).toEqual([])
  })
  it('counts whatever else a stranger put beside its certificate', async () => {
    const honest = signed()
    const beside = new X509Certificate(revoked.certificatePem).raw
    expect(await accept({ ...honest, certificates: [...honest.certificates, beside] }, PEER)).toBe('accepted')
    expect(database.current().map(({ kmeId }) => kmeId)).toEqual([A])
  })
  it('ends when its time is over, and when its certificate is revoked', async () => {
    await accept(signed({ validForS: 900 }), PEER)
    await accept(signed({ kmeId: B, links: [] }, b), PEER)
    isRevoked = (serial) => serial === b.serial
    expect(database.current().map(({ kmeId }) => kmeId)).toEqual([A])
    // Nor is it offered to others, who may not know yet.
    expect(database.signedOf([A, B])).toHaveLength(1)
    expect(database.difference(new Map()).newer).toHaveLength(1)
    clock.advanceMs(900_000)
    expect(database.current()).toEqual([])
    expect(database.signedOf([A, B])).toEqual([])
  })
})

describe('refused, without any effect but one audit record and an alarm, is a statement', () => {
  it('P28 that is older than the one known', async () => {
    const older = signed()
    await accept(signed({ sequence: 11 }), PEER)
    clock.advanceMs(10_001)
    await expectRefused(older, 'older')
  })
  it('P28 that is older than the one known before a restart', async () => {
    await accept(signed({ sequence: 11 }), PEER)
    database = openDatabase()
    await database.load()
    clock.advanceMs(10_001)
    await expectRefused(signed(), 'older')
  })
  it('P28 that is unsigned', async () => {
    const { signature: _, ...rest } = writeStatements([signed()]) as { signature?: string }
    const body = rest as { statements: { signature?: string }[] }
    delete body.statements[0]!.signature
    await expectRefused(readStatements(body)[0], 'malformed')
  })
  it('with an empty signature', () => expectRefused({ ...signed(), signature: Buffer.alloc(0) }, 'wrong signature'))
  it('whose links were changed', async () => {
    const { statement: text, ...rest } = signed()
    await expectRefused({ ...rest, statement: text.replace('"availableKeys":64', '"availableKeys":65') }, 'wrong signature')
  })
  it('whose signature was made for something else', async () => {
    const offered = signed()
    const signature = sign('sha256', Buffer.from(offered.statement), createPrivateKey(a.privateKeyPem))
    await expectRefused({ ...offered, signature }, 'wrong signature')
  })
  it('of one KME signed by another', () => expectRefused(signed({}, b), "signed by another KME's key"))
  it('that carries the certificate of its KME and the signature of another', async () => {
    await expectRefused({ ...signed({}, b), certificates: signed().certificates }, 'wrong signature')
  })
  it('signed under another authority', () => expectRefused(signed({}, strangerCertificate), 'certificate not trusted'))
  it('signed with the certificate of an SAE', () => expectRefused(signed({}, saeCertificate), 'certificate not trusted'))
  it('signed with a revoked certificate', () =>
    expectRefused(signed({ kmeId: 'kme-r' as KmeId }, revoked), 'certificate not trusted'))
  it('signed with a certificate that its KME may not show here', async () => {
    accepts = (kmeId, fingerprint256) => kmeId !== A || fingerprint256 !== new X509Certificate(a.certificatePem).fingerprint256
    await expectRefused(signed(), 'certificate not trusted')
  })
  it('without a certificate that can be read', () =>
    expectRefused({ ...signed(), certificates: [Buffer.from('none')] }, 'certificate not trusted'))
  it('from the future', () => expectRefused(signed({ issuedAtMs: clock.nowMs() + 30_001 }), 'issued in the future'))
  it('whose time is over', () => expectRefused(signed({ issuedAtMs: clock.nowMs() - 900_000 }), 'expired'))
  it('that says something else under the same number', async () => {
    await accept(signed(), PEER)
    await expectRefused(signed({ links: [] }), 'other content under the same sequence number')
  })
  it('whose number is so far ahead that its KME could not go on counting', () =>
    expectRefused(signed({ sequence: Math.floor(clock.nowMs() / 1000) + 31_622_402 }), 'sequence number far ahead of its time'))
  it('that is too large', async () => {
    const offered = { ...signed(), statement: ' '.repeat(40_000) }
    await expectRefused(readStatements(writeStatements([offered]))[0], 'malformed')
  })
  it.each([
    [
      'with members in another order',
      (text: string) => JSON.stringify(Object.fromEntries(Object.entries(JSON.parse(text) as object).reverse())),
    ],
    ['with a space', (text: string) => text.replace(',', ', ')],
    ['with another member', (text: string) => text.replace('{', '{"more":1,')],
    ['of another version', (text: string) => text.replace('"version":1', '"version":2')],
    ['that is no JSON', () => 'statement'],
    ['with a negative amount', (text: string) => text.replace(':64', ':-64')],
    ['with a fraction', (text: string) => text.replace(':64', ':6.4')],
    ['with a link to itself', (text: string) => text.replace('"peerKmeId":"kme-b"', '"peerKmeId":"kme-a"')],
    ['valid for ever', (text: string) => text.replace('900', '86401')],
    ['with a sequence number that is none', (text: string) => text.replace('"sequence":10', '"sequence":1e300')],
  ])('%s', (_, change) => expectRefused(signText(change(writeStatement(statement()))), 'malformed'))
  it('that names a link twice', () => expectRefused(signText(writeStatement(statement({ links: [link, link] }))), 'malformed'))
  it('that names too many links', () => {
    const links = Array.from({ length: 129 }, (_, i) => ({ ...link, linkId: `l${i}` as LinkId }))
    return expectRefused(signText(writeStatement(statement({ links }))), 'malformed')
  })
})

describe('against too much', () => {
  it('a statement that was refused is not reported again', async () => {
    const offered = signed({}, b)
    await expectRefused(offered, "signed by another KME's key")
    expect(await accept(offered, PEER)).toBe('refused')
    expect(audited).toHaveLength(1)
  })
  it('a KME that states its links ever again is deferred, and heard later', async () => {
    let sequence = 100
    const offer = () => accept(signed({ sequence: (sequence += 1) }), PEER)
    const outcomes = []
    for (let i = 0; i < 20; i += 1) outcomes.push(await offer())
    expect(outcomes.filter((outcome) => outcome === 'accepted')).toHaveLength(8)
    expect(outcomes.slice(8)).toEqual(Array(12).fill('deferred'))
    // It is another one that passes them on.
    expect(audited).toEqual([])
    clock.advanceMs(1000)
    expect(await offer()).toBe('accepted')
  })
  it('a KME that sends its own statements ever again is reported once a minute', async () => {
    let sequence = 100
    const offer = () => accept(signed({ sequence: (sequence += 1) }), A)
    for (let i = 0; i < 500; i += 1) await offer()
    expect(database.sequences().get(A)).toBe(108)
    const report = expect.objectContaining({ actor: 'kme:kme-a', subject: expect.objectContaining({ reason: 'too often' }) })
    expect(audited).toEqual([report])
    expect(raised).toEqual(['topology.refused:kme-a'])
    clock.advanceMs(60_000)
    for (let i = 0; i < 500; i += 1) await offer()
    expect(audited).toEqual([report, report])
  })
  it('of a flood of different bad statements each is told and recorded, and none has an effect', async () => {
    const before = stateOf()
    for (let i = 0; i < 300; i += 1) expect(await accept(signed({ sequence: 100 + i }, b), PEER)).toBe('refused')
    for (let i = 0; i < 300; i += 1) expect(await accept(undefined, PEER)).toBe('refused')
    expect(stateOf()).toEqual(before)
    // The audit log leaves out what is too much: test/alarms/tell-of-refusals.test.ts.
    expect(audited).toHaveLength(600)
    expect(new Set(raised)).toEqual(new Set(['topology.refused:kme-p']))
  })
  it('a KME is forgotten when no statement of it can be valid any more, and not before', async () => {
    const forADay = signed({ validForS: 86_400 })
    await accept(signed({ sequence: 11, validForS: 10 }), PEER)
    clock.advanceMs(86_400_000 - 10)
    await database.prune()
    await expectRefused(forADay, 'older')
    clock.advanceMs(30_011)
    await database.prune()
    expect(store.rows.size).toBe(0)
    expect(database.sequences().size).toBe(0)
  })
})
