/** The document of the peer API and the code that writes its JSON say the same. */
import { describe, expect, it } from '@jest/globals'
import { parseAssignmentId, parseBlockId, parseKeyId, parseKmeId, parseLinkId, parseSaeId } from '../../src/kernel/identifiers.ts'
import {
  peerPaths,
  writeAssignmentAnswer,
  writeBlockAnswer,
  writeDifference,
  writeOffer,
  writeProposal,
  writeRelayAnswer,
  writeRelayCheck,
  writeRelayParcel,
  writeSequences,
  writeStatements,
} from '../../src/peer/wire.ts'
import { createContract } from './contract.ts'

const contract = createContract('openapi/kme-peer.yaml')
const UUID = '3f0c1c2e-8f4d-4d8e-9a51-0f2a6f4b7c11'
const tag = Buffer.alloc(32, 7)
const offer = {
  assignment: {
    aid: parseAssignmentId(UUID)!,
    masterSaeId: parseSaeId('alice')!,
    slaveSaeIds: [parseSaeId('bob')!],
    sizeBits: 256,
    keyIds: [parseKeyId(UUID)!],
    units: [{ blockId: parseBlockId(UUID)!, units: [0, 2] }],
    ttlS: 60,
  },
  commitment: tag,
}
const kmeId = parseKmeId('kme-c')!
const signed = { statement: '{}', signature: Buffer.alloc(64, 1), certificates: [Buffer.alloc(600, 2)] }
const ask = (path: string, body: object): void => contract.checkRequest('POST', path, 'application/json', JSON.stringify(body))
const answer = (path: string, body: object): unknown =>
  contract.checkResponse('POST', path, 200, 'application/json', JSON.stringify(body))

describe('the peer API', () => {
  it('documents the paths the code uses', () => {
    expect(new Set(contract.operations.map(({ template }) => template))).toEqual(new Set(Object.values(peerPaths)))
  })

  it('allows what the code writes', () => {
    ask(peerPaths.assignments, { calls: [writeOffer(offer), writeOffer({ ...offer, difference: Buffer.alloc(32, 9) })] })
    ask(peerPaths.aborts, { calls: [{ aid: UUID }] })
    ask(peerPaths.blocks, { calls: [writeProposal({ linkId: parseLinkId('a-b')!, blockId: parseBlockId(UUID)!, tag })] })
    ask(peerPaths.loans, { loanId: UUID, unitCount: 64 })
    ask(peerPaths.retirements, { calls: [{ aid: UUID, units: offer.assignment.units }] })
    ask(peerPaths.statements, writeStatements([signed]))
    answer(peerPaths.statements, {})
    ask(peerPaths.comparison, writeSequences(new Map([[kmeId, 7]])))
    answer(peerPaths.comparison, writeDifference({ newer: [signed], wanted: [kmeId], more: false }))
    const leg = { path: [parseKmeId('kme-a')!, parseKmeId('kme-b')!], hop: 1, budgetMs: 1000 }
    const mac = Buffer.alloc(16, 7)
    const parcel = {
      ...leg,
      relayId: UUID,
      block: UUID,
      share: { index: 0, count: 1 },
      pad: offer.assignment.units,
      ciphertext: tag,
      mac,
    }
    ask(peerPaths.relays, writeRelayParcel(parcel))
    ask(peerPaths.relays, writeRelayParcel({ ...parcel, wrap: Buffer.alloc(1216) }))
    ask(peerPaths.relayChecks, writeRelayCheck({ ...leg, sizeBytes: 288 }))
    const refused = { outcome: 'refused', reason: 'insufficient', at: parseKmeId('kme-b')! } as const
    answer(peerPaths.relays, writeRelayAnswer(UUID, { outcome: 'delivered', mac }))
    answer(peerPaths.relays, writeRelayAnswer(UUID, { outcome: 'delivered', mac, reply: Buffer.alloc(1120) }))
    answer(peerPaths.relays, writeRelayAnswer(UUID, refused))
    answer(peerPaths.relayChecks, refused)
    answer(peerPaths.relayChecks, { outcome: 'ready' })
    answer(peerPaths.aborts, { answers: [{ outcome: 'voided' }, { outcome: 'failed' }] })
    answer(peerPaths.retirements, { answers: [{ outcome: 'retired' }, { outcome: 'failed' }] })
    answer(peerPaths.assignments, {
      answers: [
        writeAssignmentAnswer({ outcome: 'held', confirmation: tag }),
        writeAssignmentAnswer({ outcome: 'refused', reason: 'pair-not-permitted' }),
        writeAssignmentAnswer({ outcome: 'refused', reason: 'block-pending' }),
        writeAssignmentAnswer({ outcome: 'failed' }),
      ],
    })
    answer(peerPaths.blocks, {
      answers: [writeBlockAnswer({ outcome: 'agreed', tag }), writeBlockAnswer({ outcome: 'different' })],
    })
  })

  it.each<[string, () => unknown]>([
    ['an assignment without units', () => ask(peerPaths.assignments, { calls: [{ ...writeOffer(offer), units: [] }] })],
    [
      'a difference that is no base64',
      () => ask(peerPaths.assignments, { calls: [{ ...writeOffer(offer), difference: '-_-_' }] }),
    ],
    ['no call', () => ask(peerPaths.aborts, { calls: [] })],
    ['a loan of nothing', () => ask(peerPaths.loans, { loanId: UUID, unitCount: 0 })],
    ['a refusal without reason', () => answer(peerPaths.assignments, { answers: [{ outcome: 'refused' }] })],
    [
      'key bytes in an answer',
      () => answer(peerPaths.assignments, { answers: [{ outcome: 'held', confirmation: tag.toString('base64'), key: 'AAAA' }] }),
    ],
    ['agreement without proof', () => answer(peerPaths.blocks, { answers: [{ outcome: 'agreed' }] })],
  ])('refuses %s', (_, check) => {
    expect(check).toThrow()
  })
})
