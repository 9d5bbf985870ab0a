/** Holds the books of both ends of a link against each other, unit by unit, once nothing moves any more. */
import { eventually, type KmeName, type Network } from './network.ts'

interface BlockRow {
  block_id: string
  state: string
  mine: string
  taken: string
  done: string
}

const blocksOf = async (network: Network, name: KmeName): Promise<Map<string, BlockRow>> => {
  const rows = await network.query<BlockRow>(
    name,
    `SELECT block_id, state, mine::text, taken::text, done::text FROM key_block WHERE link_id = 'a-b' AND state <> 'INGESTED'`,
  )
  return new Map(rows.map((row) => [row.block_id, row]))
}

/** Nothing of it was ever used: the other end never got it. */
const wasGivenUp = ({ state, taken }: BlockRow): boolean => state === 'DESTROYED' && !taken.includes('1')

/** Every disagreement between the two ends, in words; empty when the books balance. */
export const imbalances = async (network: Network): Promise<string[]> => {
  const faults: string[] = []
  const atA = await blocksOf(network, 'kme-a')
  const atB = await blocksOf(network, 'kme-b')
  for (const [blockId, a] of atA) {
    const b = atB.get(blockId)
    if (b === undefined) {
      if (!wasGivenUp(a)) faults.push(`block ${blockId} is at kme-a only`)
      continue
    }
    for (let unit = 0; unit < a.mine.length; unit += 1) {
      const issuers = Number(a.mine[unit]) + Number(b.mine[unit])
      if (issuers !== 1) faults.push(`unit ${unit} of ${blockId} has ${issuers} issuing KMEs`)
      if (a.taken[unit] !== b.taken[unit]) faults.push(`unit ${unit} of ${blockId} is taken at one end only`)
    }
    for (const row of [a, b]) {
      if (row.state === 'AVAILABLE' && !row.done.includes('0')) faults.push(`block ${blockId} is used up but not destroyed`)
    }
  }
  for (const [blockId, b] of atB) {
    if (!atA.has(blockId) && !wasGivenUp(b)) faults.push(`block ${blockId} is at kme-b only`)
  }
  for (const name of ['kme-a', 'kme-b'] as const) {
    const [{ reserved }] = (await network.query<{ reserved: number }>(
      name,
      'SELECT count(*)::int AS reserved FROM reservation',
    )) as [{ reserved: number }]
    if (reserved > 0) faults.push(`${reserved} reservations are left at ${name}`)
    // A unit is promised to one assignment at the most.
    const doubles = await network.query<{ block: string; unit: number }>(
      name,
      `SELECT run ->> 'blockId' AS block, unit::int AS unit FROM assignment, jsonb_array_elements(units) run, jsonb_array_elements(run -> 'units') unit
       WHERE state <> 'VOIDED' GROUP BY 1, 2 HAVING count(*) > 1`,
    )
    for (const { block, unit } of doubles) faults.push(`unit ${unit} of ${block} is in two assignments at ${name}`)
  }
  return faults
}

/** Waits until the books balance; says what is wrong when they do not in time. */
export const expectBalanced = async (network: Network): Promise<void> => {
  let faults: string[] = []
  await eventually('the books of both ends balance', async () => (faults = await imbalances(network)).length === 0).catch(() => {
    throw new Error(`the books do not balance:\n${faults.slice(0, 20).join('\n')}`)
  })
}
