import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { failFdatasync } from './failing-disk.ts'
import { startWorld, type World } from './world.ts'

describe('PostgreSQL dies under traffic', () => {
  let world: World

  beforeAll(async () => {
    world = await startWorld()
  })
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
  })

  it('F11 kill -9 of the postmaster: 503 with Retry-After while it is away, nothing lost, keys flow soon after its start', async () => {
    const { server, alice, bob } = world
    await world.underTraffic(async () => {
      await server.kill()
      for (const [client, slave] of [
        [alice, 'bob'],
        [bob, 'alice'],
      ] as const) {
        const answer = await client.get(`/api/v1/keys/${slave}/enc_keys`)
        expect(answer.status).toBe(503)
        expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
      }
      await server.start()
    })
  })

  it('F11 immediate stop: the same', async () => {
    const { server } = world
    await world.underTraffic(async () => {
      await server.stopImmediately()
      await server.start()
    })
  })

  it('F11 kill -9 of one backend: the server recovers by itself, and so do the KMEs', async () => {
    const { server } = world
    await world.underTraffic(async () => {
      const [backend] = await server.query<{ pid: number }>(
        'postgres',
        `SELECT pid FROM pg_stat_activity WHERE datname = 'kme_a' AND state IS NOT NULL ORDER BY query_start DESC LIMIT 1`,
      )
      const before = await server.servesSince()
      process.kill(backend!.pid, 'SIGKILL')
      await server.hasRecovered(before)
    })
  })

  it.each([1, 4])(
    'F12 commit %d of each connection fails on the disk: the server panics, and what was under way is read back',
    async (nth) => {
      const { server } = world
      await world.underTraffic(async () => {
        const backends = await server.query<{ pid: number }>(
          'postgres',
          `SELECT pid FROM pg_stat_activity WHERE datname IN ('kme_a', 'kme_b')`,
        )
        const before = await server.servesSince()
        await failFdatasync(
          backends.map(({ pid }) => pid),
          nth,
        )
        await server.hasRecovered(before)
      })
    },
  )

  it('F20 connections are terminated again and again: what was under way is rolled back or read back', async () => {
    const { server, account } = world
    await world.underTraffic(async () => {
      for (let round = 0; round < 60; round += 1) {
        await server.query(
          'postgres',
          `SELECT pg_terminate_backend(pid), pg_sleep(0.02) FROM (SELECT pid FROM pg_stat_activity
             WHERE datname IN ('kme_a', 'kme_b') ORDER BY state = 'active' DESC, random() LIMIT 2) victim`,
        )
      }
    })
    expect(account.figures.refused503).toBeGreaterThan(0)
  })
})
