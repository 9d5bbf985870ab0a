/** A peer KME gone bad: it has the certificate, the database and the passphrase of kme-b, so it can prove knowledge of every
 *  byte the two KMEs share, and says what it likes to kme-a. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import type { AssignmentId, BlockId, KeyId, KmeId, SaeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { assignmentTag } from '../../src/key-store/commitment.ts'
import type { Assignment, UnitRun } from '../../src/key-store/key-store.ts'
import { createBlockReader, joinUnits } from '../../src/key-store/prisma-open-blocks.ts'
import { peerPaths, writeOffer } from '../../src/peer/wire.ts'
import type { Answer, Network } from '../network/network.ts'
import { createContract } from '../openapi/contract.ts'
import { createSessionSpeaker } from '../peer/session-speaker.ts'
import { openTestDatabase } from '../setup/test-database.ts'

const UNIT_BITS = 256
const contract = createContract('openapi/kme-peer.yaml')

export interface ForgingPeer extends AsyncDisposable {
  /** Says anything to a path of kme-a's peer API; the answer is judged by the document. */
  say(path: string, body: unknown): Promise<Answer>
  get(path: string): Promise<Answer>
  /** Units of the blocks both KMEs hold: free ones that kme-b issues, or those that kme-a issues. */
  units(issuer: 'kme-b' | 'kme-a', count: number): Promise<UnitRun[]>
  /** A good assignment of bob's keys to alice on units that kme-b issues, one key, with `changes`. */
  assignment(changes?: Partial<Assignment>): Promise<Assignment>
  /** The call that proves knowledge of the key bytes, with `changes` made after the proof. */
  offer(assignment: Assignment, changes?: Record<string, unknown>): Promise<object>
  /** @returns the answers to one request of these calls. */
  assign(...calls: object[]): Promise<unknown[]>
}

export const createForgingPeer = async (network: Network): Promise<ForgingPeer> => {
  const own = (name: string) => readFileSync(`${network.directory}/${name}`, 'utf8')
  const speaker = createSessionSpeaker({
    port: network.ports.get('kme-a')!.peer,
    cert: own('kme-b.pem'),
    key: own('kme-b.key'),
    ca: network.authorities.certificatePem.kme,
    from: 'kme-b',
    to: 'kme-a',
  })
  const database = openTestDatabase(network.databases.get('kme-b')!.url, 4)
  using passphrase = SecretBytes.take(Buffer.from('passphrase of kme-b'))
  const kmeId = 'kme-b' as KmeId
  const keyring = await openKeyring({
    database,
    random: systemRandom,
    kmeId,
    passphrase,
    argon2MemoryKib: 19456,
    argon2Passes: 1,
  })
  const reader = createBlockReader({ statements: database, keyring, kmeId, unitSizeBits: UNIT_BITS })
  const used = new Set<string>()

  const judgedAnswer = (method: string, path: string, answer: Answer): Answer => {
    if (path in byPath) contract.checkResponse(method, path, answer.status, answer.headers['content-type'] as string, answer.text)
    return answer
  }
  const byPath = Object.fromEntries(Object.values(peerPaths).map((path) => [path, true]))

  const units: ForgingPeer['units'] = async (issuer, count) => {
    const rows = await network.query<{ block_id: BlockId; mine: string; taken: string }>(
      'kme-b',
      `SELECT block_id, mine::text, taken::text FROM key_block WHERE state = 'AVAILABLE' AND link_id = 'a-b' ORDER BY block_id`,
    )
    const runs: UnitRun[] = []
    for (const row of rows) {
      const wanted = issuer === 'kme-b' ? '1' : '0'
      for (let unit = 0; unit < row.mine.length && runs.length < count; unit += 1) {
        const name = `${row.block_id} ${unit}`
        if (row.mine[unit] !== wanted || row.taken[unit] !== '0' || used.has(name)) continue
        used.add(name)
        runs.push({ blockId: row.block_id, units: [unit] })
      }
    }
    return runs
  }

  const commitmentOf = async (assignment: Assignment): Promise<Buffer> => {
    const request = { units: assignment.units, sizeBits: assignment.sizeBits, count: assignment.keyIds.length }
    const sealed = await reader.sealedUnits([request])
    const blocks = await reader.open(assignment.units.map((run) => run.blockId))
    const material = joinUnits(blocks, request, sealed)
    const tag = assignmentTag(blocks.get(assignment.units[0]!.blockId)!.tagKey, 'offer', assignment, material.bytes)
    material.bytes.wipe()
    return tag
  }

  const say: ForgingPeer['say'] = async (path, body) => judgedAnswer('POST', path, await speaker.say('POST', path, body))
  return {
    say,
    get: async (path) => judgedAnswer('GET', path, await speaker.say('GET', path)),
    units,
    assignment: async (changes = {}) => ({
      aid: randomUUID() as AssignmentId,
      masterSaeId: 'bob' as SaeId,
      slaveSaeIds: ['alice' as SaeId],
      sizeBits: 256,
      keyIds: [randomUUID() as KeyId],
      units: changes.units ?? (await units('kme-b', changes.keyIds?.length ?? 1)),
      ttlS: 60,
      ...changes,
    }),
    offer: async (assignment, changes = {}) => ({
      ...writeOffer({ assignment, commitment: await commitmentOf(assignment) }),
      ...changes,
    }),
    assign: async (...calls) => {
      const answer = await say(peerPaths.assignments, { calls })
      return (answer.json as { answers: unknown[] }).answers
    },
    [Symbol.asyncDispose]: async () => {
      speaker.hangUp()
      await database[Symbol.asyncDispose]()
    },
  }
}
