/** Who the two stations of a BB84 link let in: the KME at the other end, by its certificate, and nobody else (I17). */
import { afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect } from 'node:tls'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { acceptBob, connectToAlice, type ClassicalAddress } from '../../src/link/drivers/bb84/classical-connection.ts'
import { makeAuthority, makeLeaf, makeRevocationList, type Identity } from '../http/test-certificates.ts'
import { freePort } from '../setup/free-port.ts'

let authority: Identity
let alice: Identity
let bob: Identity
let stop: AbortController
let opened: Duplex[]

beforeAll(async () => {
  authority = await makeAuthority()
  alice = await kme('kme-a')
  bob = await kme('kme-b')
})
beforeEach(() => {
  stop = new AbortController()
  opened = []
})
afterEach(() => {
  stop.abort()
  for (const stream of opened) stream.destroy()
})

const keep = <Stream extends Duplex>(stream: Stream): Stream => {
  opened.push(stream.on('error', () => {}))
  return stream
}

const kme = (...ids: string[]): Promise<Identity> =>
  makeLeaf(authority, { uris: ids.map((id) => `urn:kme:kme:${id}`), usages: ['client', 'server'] })

const address = (port: number, own: Identity, peer: string, crlPems?: readonly string[]): ClassicalAddress => ({
  host: '127.0.0.1',
  port,
  peerKmeId: peer as KmeId,
  tls: {
    certificatePem: own.certificatePem,
    privateKeyPem: own.privateKeyPem,
    caPem: authority.certificatePem,
    ...(crlPems !== undefined && { crlPems }),
  },
})

/** How it ends for Bob, who tries until somebody listens. */
const bobMeets = async (port: number, own: Identity): Promise<string> => {
  for (;;) {
    try {
      const stream = keep(await connectToAlice(address(port, own, 'kme-a'), stop.signal, systemClock)).resume()
      // TLS 1.3: a refusal of Alice's comes after Bob's end is open.
      const closed = once(stream, 'close').then(() => 'closed by Alice')
      const welcome = once(stream, 'data').then(() => 'connected')
      return await Promise.race([welcome, closed])
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') return (error as Error).message
    }
  }
}

const aliceWaits = (port: number, own: Identity, crlPems?: readonly string[]): Promise<void> => {
  const met = acceptBob(address(port, own, 'kme-b', crlPems), stop.signal).then((stream) => void keep(stream).write('welcome'))
  met.catch(() => {})
  return met
}

describe('the classical connection between two stations', () => {
  it('joins the two KMEs of the link', async () => {
    const port = await freePort()
    const waiting = aliceWaits(port, alice)
    expect(await bobMeets(port, bob)).toBe('connected')
    await waiting
  })

  it.each([
    ['another KME', ['kme-c']],
    ['two KMEs', ['kme-a', 'kme-c']],
  ])('is not made by Bob when the certificate he meets names %s', async (_, ids) => {
    const port = await freePort()
    void aliceWaits(port, await kme(...ids))
    expect(await bobMeets(port, bob)).toBe('the certificate at this address is not that of kme-a')
  })

  it.each([
    ['another KME', ['kme-c']],
    ['two KMEs', ['kme-b', 'kme-c']],
  ])('is not made by Alice when the certificate of who comes names %s, and she waits on', async (_, ids) => {
    const port = await freePort()
    const waiting = aliceWaits(port, alice)
    expect(await bobMeets(port, await kme(...ids))).toBe('closed by Alice')
    expect(await bobMeets(port, bob)).toBe('connected')
    await waiting
  })

  it('is given up by Bob when he meets somebody who accepts connections and says nothing', async () => {
    let slept = 0
    const impatient: Clock = {
      ...systemClock,
      sleep: (ms) => {
        slept = ms
        return Promise.resolve()
      },
    }
    const silent = createServer((socket) => void keep(socket).resume()).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    try {
      await expect(connectToAlice(address(port, bob, 'kme-a'), stop.signal, impatient)).rejects.toThrow('says nothing')
      expect(slept).toBe(15_000)
    } finally {
      silent.close()
    }
  })

  it('is not made with who is revoked, or shows no certificate', async () => {
    const port = await freePort()
    const revoked = await kme('kme-b')
    const waiting = aliceWaits(port, alice, [await makeRevocationList(authority, [revoked])])
    expect(await bobMeets(port, revoked)).not.toBe('connected')
    const stranger = keep(
      connect({ host: '127.0.0.1', port, ca: authority.certificatePem, checkServerIdentity: () => undefined }),
    )
    await new Promise<void>((resolve) => stranger.resume().on('close', resolve))
    expect(await bobMeets(port, bob)).toBe('connected')
    await waiting
  })
})
