/** Limits, new certificates and an orderly stop of a listener. */
import { connect as connectTcp } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { describe, expect, it } from '@jest/globals'
import type { Express } from 'express'
import { only } from '../../src/http/api-app.ts'
import { startListener } from '../../src/http/listeners.ts'
import { createRequestLog } from '../../src/http/request-log.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { Clock } from '../../src/kernel/clock.ts'
import { makeAuthority, makeSae, makeServerLeaf } from './test-certificates.ts'
import { K, openSocket, recordingLogger, request, sendRaw, startTestListener } from './test-listener.ts'
import type { LogLine, TestListener } from './test-listener.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const STATUS = `GET ${K}sae-2/status HTTP/1.1\r\nHost: kme\r\n\r\n`
const SLOW = `GET ${K}sae-2/slow HTTP/1.1\r\nHost: kme\r\n\r\n`

const ask = async (socket: TLSSocket, bytes: string): Promise<string> => {
  const text = new Promise<string>((resolve) => socket.once('data', (chunk: Buffer) => resolve(chunk.toString('latin1'))))
  socket.write(bytes)
  return text
}

/** All that comes until the server closes. */
const readToEnd = (socket: TLSSocket): Promise<string> =>
  new Promise((resolve) => {
    let text = ''
    socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
    socket.on('error', () => undefined)
    socket.on('close', () => resolve(text))
  })

const tlsOf = (test: TestListener) => ({
  certificatePem: test.server.certificatePem,
  privateKeyPem: test.server.privateKeyPem,
  caPem: test.authority.certificatePem,
})

describe('a stop', () => {
  it('lets a running request finish, closes idle connections and accepts no more', async () => {
    const test = await startTestListener()
    const idle = await openSocket(test)
    await ask(idle, STATUS)
    const idleEnd = readToEnd(idle)
    const busy = await openSocket(test)
    const busyEnd = readToEnd(busy)
    busy.write(SLOW)
    await test.slowStarted
    const stopped = test.listener.stop(15_000)
    expect(await idleEnd).toBe('')
    await expect(request(test, `${K}sae-2/status`)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    test.releaseSlow()
    const text = await busyEnd
    expect(text).toContain('{"slow":true}')
    expect(text).toContain('Connection: close')
    await stopped
    expect(test.listener.connectionCount()).toBe(0)
  })

  it('closes a connection behind an answer whose header was already out', async () => {
    const rest = Promise.withResolvers<void>()
    const mount = (api: Express): void =>
      only(api, '/stream', {
        get: async (_req, res) => {
          res.write('first ')
          await rest.promise
          res.end('last')
        },
      })
    const test = await startTestListener({ mount })
    const socket = await openSocket(test)
    const end = readToEnd(socket)
    const begun = new Promise((resolve) => socket.once('data', resolve))
    socket.write('GET /stream HTTP/1.1\r\nHost: kme\r\n\r\n')
    await begun
    const stopped = test.listener.stop(60_000)
    rest.resolve()
    expect(await end).toMatch(/first [^]*last/)
    await stopped
  })

  it('cuts what still runs when the grace is over', async () => {
    const test = await startTestListener()
    const busy = await openSocket(test)
    const end = readToEnd(busy)
    busy.write(SLOW)
    await test.slowStarted
    await test.listener.stop(20)
    expect(await end).toBe('')
    test.releaseSlow()
  })

  it('is not held up by a client that never speaks TLS', async () => {
    const test = await startTestListener()
    const silent = connectTcp(test.listener.port, '127.0.0.1')
    await new Promise((resolve) => silent.once('connect', resolve))
    silent.on('error', () => undefined)
    const closed = new Promise((resolve) => silent.resume().once('close', resolve))
    const beganMs = systemClock.monotonicMs()
    await test.listener.stop(20)
    // Before the handshake timeout of 5 s would have ended it.
    expect(systemClock.monotonicMs() - beganMs).toBeLessThan(timeLimitMs(3_000))
    await closed
    expect(silent.destroyed).toBe(true)
  })
})

describe('new TLS material', () => {
  it('serves new connections while open ones go on', async () => {
    const test = await startTestListener()
    const old = await openSocket(test)
    await ask(old, STATUS)
    const renewed = await makeServerLeaf(test.authority)
    test.listener.updateTls({ ...tlsOf(test), certificatePem: renewed.certificatePem, privateKeyPem: renewed.privateKeyPem })
    const fresh = await openSocket(test)
    expect(fresh.getPeerX509Certificate()?.serialNumber.toLowerCase()).toBe(renewed.certificate.serialNumber)
    expect(await ask(old, STATUS)).toContain('200 OK')
    old.destroy()
    fresh.destroy()
    await test.listener.stop(0)
  })

  it('replaces whom it trusts', async () => {
    const test = await startTestListener()
    const other = await makeAuthority('CN=Other CA')
    const bob = await makeSae(other, 'sae-2')
    expect(await sendRaw(test, STATUS, { client: bob })).toMatchObject({ statuses: [], closed: true })
    test.listener.updateTls({ ...tlsOf(test), caPem: other.certificatePem })
    expect(await sendRaw(test, STATUS, { client: bob, answers: 1 })).toMatchObject({ statuses: [200] })
    expect(await sendRaw(test, STATUS)).toMatchObject({ statuses: [], closed: true })
    await test.listener.stop(0)
  })

  it('that is not usable is refused and the old stays', async () => {
    const test = await startTestListener()
    const stranger = await makeServerLeaf(test.authority)
    expect(() => test.listener.updateTls({ ...tlsOf(test), privateKeyPem: stranger.privateKeyPem })).toThrow()
    expect(() => test.listener.updateTls({ ...tlsOf(test), certificatePem: 'no certificate' })).toThrow()
    const { certificatePem, privateKeyPem } = tlsOf(test)
    expect(() => test.listener.updateTls({ certificatePem, privateKeyPem })).toThrow(/no CA certificate/)
    expect(await request(test, `${K}sae-2/status`)).toMatchObject({ status: 200 })
    await test.listener.stop(0)
  })

  it('without a CA starts no listener that requires client certificates', async () => {
    const server = await makeServerLeaf(await makeAuthority())
    const { certificatePem, privateKeyPem } = server
    const options = { host: '127.0.0.1', port: 0, app: () => undefined, log: recordingLogger([]), clock: systemClock }
    const tls = { certificatePem, privateKeyPem }
    await expect(startListener({ ...options, name: 'sae', tls, clientCertificate: 'required' })).rejects.toThrow(
      /no CA certificate/,
    )
    const open = await startListener({ ...options, name: 'admin', tls, clientCertificate: 'none' })
    await open.stop(0)
  })
})

describe('a request that the listener refuses itself', () => {
  const HEAD = `GET ${K}sae-2/status`
  it.each([
    ['announces too long a body', `${HEAD} HTTP/1.1\r\nHost: kme\r\nContent-Length: 99999999\r\n\r\n`],
    ['has a header twice', `${HEAD} HTTP/1.1\r\nHost: kme\r\nHost: kme\r\n\r\n`],
    ['is HTTP/1.0', `${HEAD} HTTP/1.0\r\nHost: kme\r\n\r\n`],
    ['expects what nobody knows', `${HEAD} HTTP/1.1\r\nHost: kme\r\nExpect: gold\r\n\r\n`],
  ])('because it %s is logged', async (_why, bytes) => {
    const lines: LogLine[] = []
    const refused = createRequestLog({ listener: 'sae', log: recordingLogger(lines), clock: systemClock })
    const test = await startTestListener({ listener: { refused } })
    expect(await sendRaw(test, bytes)).toMatchObject({ statuses: [400], closed: true })
    await test.listener.stop(0)
    expect(lines.map((line) => line.fields)).toMatchObject([{ listener: 'sae', method: 'GET', status: 400, answered: true }])
    expect(lines[0]?.fields).toMatchObject({ who: undefined, route: undefined })
  })

  it('because too many of its connection are running is logged, and those that run are not', async () => {
    const lines: LogLine[] = []
    const refused = createRequestLog({ listener: 'sae', log: recordingLogger(lines), clock: systemClock })
    const test = await startTestListener({ listener: { refused, limits: { maxRequestsInFlightPerSocket: 1 } } })
    const socket = await openSocket(test)
    const end = readToEnd(socket)
    socket.write(SLOW.repeat(2))
    await test.slowStarted
    test.releaseSlow()
    await end
    await test.listener.stop(0)
    expect(lines.map((line) => line.fields['status'])).toEqual([503])
  })
})

describe('a limit', () => {
  it('on connections of one client leaves others their own', async () => {
    const test = await startTestListener({ listener: { limits: { maxConnectionsPerClient: 2 } } })
    const held = [await openSocket(test), await openSocket(test)]
    for (const socket of held) await ask(socket, STATUS)
    expect(await sendRaw(test, STATUS)).toMatchObject({ statuses: [], closed: true })
    const bob = await makeSae(test.authority, 'sae-2')
    expect(await sendRaw(test, STATUS, { client: bob, answers: 1 })).toMatchObject({ statuses: [200] })
    expect(test.log.map((line) => line.message)).toContain('too many connections of one client')
    for (const socket of held) socket.destroy()
    await test.listener.stop(0)
  })

  it('on pipelined requests refuses the rest without running it', async () => {
    const test = await startTestListener({ listener: { limits: { maxRequestsInFlightPerSocket: 2 } } })
    const socket = await openSocket(test)
    const end = readToEnd(socket)
    socket.write(SLOW.repeat(3))
    await test.slowStarted
    test.releaseSlow()
    const text = await end
    expect([...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map((match) => match[1])).toEqual(['200', '200', '503'])
    expect(test.runs()).toBe(2)
    await test.listener.stop(0)
  })

  it('on the age of a connection closes it with the next answer', async () => {
    let aheadMs = 0
    const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs }
    const test = await startTestListener({ clock })
    const socket = await openSocket(test)
    expect(await ask(socket, STATUS)).toContain('Connection: keep-alive')
    aheadMs = 600_001
    const end = readToEnd(socket)
    socket.write(STATUS)
    expect(await end).toContain('Connection: close')
    await test.listener.stop(0)
  })

  it.each([
    ['headers', `GET ${K}sae-2/status HTTP/1.1\r\nHost: k`],
    ['a body', `POST ${K}sae-2/enc_keys HTTP/1.1\r\nHost: kme\r\nContent-Length: 12\r\n\r\n{"num`],
  ])('on time ends a request whose %s do not come', async (_what, bytes) => {
    const limits = { headersTimeoutMs: 100, requestTimeoutMs: 100, checkingIntervalMs: 20 }
    const test = await startTestListener({ listener: { limits } })
    expect(await sendRaw(test, bytes)).toMatchObject({ statuses: [400], closed: true })
    expect(test.runs()).toBe(0)
    await test.listener.stop(0)
  })

  it('on time ends a handshake that does not come', async () => {
    const test = await startTestListener({ listener: { limits: { handshakeTimeoutMs: 50 } } })
    const silent = connectTcp(test.listener.port, '127.0.0.1')
    silent.on('error', () => undefined)
    const beganMs = systemClock.monotonicMs()
    await new Promise((resolve) => silent.resume().once('close', resolve))
    expect(systemClock.monotonicMs() - beganMs).toBeLessThan(timeLimitMs(3_000))
    expect(test.log).toContainEqual(expect.objectContaining({ message: 'failed handshake' }))
    await test.listener.stop(0)
  })
})
