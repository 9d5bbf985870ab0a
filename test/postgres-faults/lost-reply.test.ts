import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually, keysOf, type Answer } from '../network/network.ts'
import { freePort } from '../setup/free-port.ts'
import { startTcpProxy, type TcpProxy } from '../setup/tcp-proxy.ts'
import { startWorld, type World } from './world.ts'

describe('the reply to a commit is lost', () => {
  let world: World
  let proxy: TcpProxy

  beforeAll(async () => {
    const port = await freePort()
    proxy = await startTcpProxy(port)
    world = await startWorld({ port, reachedAt: proxy.port })
  })
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
    await proxy?.stop()
  })

  const issue = (): Promise<Answer> => world.alice.post('/api/v1/keys/bob/enc_keys', { number: 3 })
  const fetch = (issued: Answer): Promise<Answer> =>
    world.bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: keysOf(issued).map(({ key_ID }) => ({ key_ID })) })

  /** Sends a request during which the statement with this text is done and its reply lost. Its text goes over the wire only when a
   *  connection sees it for the first time, so all connections are new. */
  const loseReply = async (statement: string, send: () => Promise<Answer>): Promise<Answer> => {
    proxy.cut()
    await world.expectRecovery()
    proxy.cut()
    let lost = false
    void proxy.swallowReply(statement).then(() => (lost = true))
    // A request that met a connection which had been cut ended before it came to the statement.
    for (;;) {
      const answer = await send()
      if (lost) return answer
      expect(answer.status).toBe(503)
    }
  }

  it('F15 of the issue: the database is asked, the answer is 200, and the slave gets the same keys', async () => {
    const issued = await loseReply('DELETE FROM reservation r USING', issue)
    expect(issued.status).toBe(200)
    const fetched = await fetch(issued)
    expect(keysOf(fetched)).toEqual(keysOf(issued))
  })

  it('F15 of the delivery: the database is asked, the slave gets its keys, and only once', async () => {
    await world.expectRecovery()
    const issued = await issue()
    expect(issued.status).toBe(200)
    const fetched = await loseReply('WITH delivered AS', () => fetch(issued))
    expect(fetched.status).toBe(200)
    expect(keysOf(fetched)).toEqual(keysOf(issued))
    await eventually('keys are refused', async () => (await fetch(issued)).status === 400)
  })

  it.each([
    ['claim', 'INSERT INTO reservation'],
    ['hold', `'hold')`],
  ])('F15 of the %s: 503, and the units are settled', async (_, statement) => {
    const answer = await loseReply(statement, issue)
    expect(answer.status).toBe(503)
    await world.underTraffic(() => Promise.resolve())
  })

  it('F15 of an issue to an SAE of the same KME: 503, and the keys stay unknown to everybody', async () => {
    const answer = await loseReply('issued AS', () => world.alice.get('/api/v1/keys/anna/enc_keys'))
    expect(answer.status).toBe(503)
    await world.underTraffic(() => Promise.resolve())
  })

  it('F15 of whatever comes, 40 times: no key twice, none lost', async () => {
    await world.underTraffic(async () => {
      for (let round = 0; round < 40; round += 1) await proxy.swallowReply(round % 2 === 0 ? 'COMMIT' : '')
    })
  })
})
