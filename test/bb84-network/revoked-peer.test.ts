/** A KME whose certificate is revoked distils no more key, though its classical channel was open already (I16). */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually } from '../network/network.ts'
import { KMES, startBb84Network, type Bb84Network } from './bb84-network.ts'

let world: Bb84Network

beforeAll(async () => {
  world = await startBb84Network()
  await world.moreBlocks(1)
})
afterAll(() => world?.[Symbol.asyncDispose]())

const blocksEverywhere = (): Promise<number[]> => Promise.all(KMES.map(world.blocksDistilled))

describe('the classical channel of a BB84 link', () => {
  it('is opened anew when a revocation list is renewed, and blocks go on', async () => {
    await world.network.authorities.refreshRevocationLists()
    await world.moreBlocks(3)
  })

  it('is cut when the certificate of the other KME is revoked, until that has a new one', async () => {
    await world.network.authorities.revoke('kme-b')
    await eventually('the link is down at both ends', async () =>
      Object.values(await world.bothLinks()).every(({ state }) => state === 'down'),
    )
    let before = await blocksEverywhere()
    await eventually('the last block is stored', async () => {
      await systemClock.sleep(500)
      const now = await blocksEverywhere()
      const isSame = String(now) === String(before)
      before = now
      return isSame
    })
    const renewed = await world.network.authorities.issue({ profile: 'kme', id: 'kme-b', hosts: ['localhost', '127.0.0.1'] })
    expect(await blocksEverywhere()).toEqual(before)
    writeFileSync(join(world.network.directory, 'kme-b.key'), renewed.privateKeyPem)
    writeFileSync(join(world.network.directory, 'kme-b.pem'), renewed.certificatePem)
    await world.moreBlocks(2)
  })
})
