/** What neighbours say of keys stands in the log, in few words. */
import { randomUUID } from 'node:crypto'
import { beforeEach, expect, it } from '@jest/globals'
import type { AckStatus, Neighbour } from '../../src/interworking/interworking.ts'
import { makeServeNeighbour, type ServeNeighbour } from '../../src/interworking/serve-neighbour.ts'
import type { KmeId, SaeId } from '../../src/kernel/identifiers.ts'
import type { Logger } from '../../src/kernel/log.ts'

const X: Neighbour = {
  kmeId: 'kme-x' as KmeId,
  certificate: { commonName: 'X' },
  url: 'https://x.example',
  callbackUrl: 'https://x.example/ack',
  synchronous: false,
  deadlineMs: 5000,
  requestsPerS: 500,
  keysPerS: 10_000,
}
const HOMES: Readonly<Record<string, string>> = { alice: 'kme-a', xavier: 'kme-x' }
const unexpected = (): Promise<never> => Promise.reject(new Error('not expected'))

let lines: { keys?: number; keyIds?: readonly string[]; status?: AckStatus }[]
let steps: string[]
let serve: ServeNeighbour
beforeEach(() => {
  lines = []
  steps = []
  const log: Logger = {
    debug: () => undefined,
    info: () => undefined,
    warn: (fields) => void lines.push(fields),
    error: () => undefined,
    slice: () => log,
  }
  serve = makeServeNeighbour({
    kmeId: 'kme-a' as KmeId,
    directory: {
      find: (saeId) => ({ saeId, kmeId: HOMES[saeId] as KmeId, enabled: true, sharesWith: [] }),
      mayShare: () => true,
    },
    targetsMax: 8,
    limits: { minKeySizeBits: 64, maxKeySizeBits: 1024 },
    store: { receive: unexpected, voidReceived: unexpected },
    transfers: {
      note: (_kmeId, acks) => {
        steps.push(`note ${acks.length}`)
        return Promise.resolve(true)
      },
      tell: unexpected,
      voidSent: unexpected,
    },
    heldForS: 1,
    heldUnitsMax: 1,
    admitKeys: (_caller, keyCount) => {
      steps.push(`admit ${keyCount}`)
      return Promise.resolve()
    },
    log,
  })
})

const container = (ack_status: AckStatus, keys: number) => ({
  key_id_container: Array.from({ length: keys }, () => ({ key_id: randomUUID() })),
  ack_status,
  initiator_sae_id: 'xavier' as SaeId,
  target_sae_ids: ['alice' as SaeId],
})
const say = (...acks: readonly object[]): Promise<void> => serve.ack(X, Buffer.from(JSON.stringify(acks)))

it('of any number of keys there is one line for each status, with the first 16 of them', async () => {
  await say(...Array.from({ length: 8 }, () => container('failed', 1000)), container('voided', 3), container('relayed', 5))
  expect(lines).toEqual([
    expect.objectContaining({ neighbour: 'kme-x', status: 'failed', keys: 8000 }),
    expect.objectContaining({ neighbour: 'kme-x', status: 'voided', keys: 3 }),
  ])
  expect(lines.map(({ keyIds }) => keyIds?.length)).toEqual([16, 3])
})

it('keys and containers are charged before anything is looked up', async () => {
  await say(container('voided', 10), container('voided', 0))
  expect(steps).toEqual(['admit 12', 'note 0'])
})

it('an acknowledgement of nothing is charged as well, and one of very many as a second of its neighbour', async () => {
  await say()
  await say(...Array.from({ length: 11 }, () => container('voided', 1000)))
  expect(steps.filter((step) => step.startsWith('admit'))).toEqual(['admit 1', 'admit 10000'])
})
