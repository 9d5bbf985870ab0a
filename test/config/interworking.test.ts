/** What is said about the settings of KMEs of other networks. */
import { describe, expect, it } from '@jest/globals'
import { stringify } from 'yaml'
import { ConfigError, parseConfig, type Config } from '../../src/config/config.ts'

const tls = { certificate: 'kme.pem', privateKey: 'kme.key' }
const good = {
  kme: { id: 'kme-a' },
  custody: { passphraseFile: 'passphrase' },
  saeApi: { port: 8441, tls: { ...tls, clientCa: 'sae-ca.pem' } },
  peerApi: { port: 8451, tls: { ...tls, ca: 'kme-ca.pem' } },
  adminApi: { port: 8461, tls, tokenKey: 'token.pem' },
  peers: [{ id: 'kme-b', url: 'https://kme-b.example:8451' }],
}
const neighbour = { id: 'kme-x', certificate: { commonName: 'KME X' }, url: 'https://kme-x.example' }
const interworking = {
  port: 8471,
  url: 'https://kme-a.example:8471',
  tls: { ...tls, ca: 'site-ca.pem' },
  neighbours: [neighbour],
}

const parse = (changes: object, more: object = {}): Config =>
  parseConfig(stringify({ ...good, interworking: { ...interworking, ...changes }, ...more }), '/etc/kme.yaml')
const faultsOf = (changes: object, more: object = {}): readonly string[] => {
  try {
    parse(changes, more)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
}
const withNeighbour = (changes: object): readonly string[] => faultsOf({ neighbours: [{ ...neighbour, ...changes }] })

describe('interworking', () => {
  it('is off unless set', () => expect(parseConfig(stringify(good), '/etc/kme.yaml').interworking).toBeUndefined())

  it('has paths beside the configuration, and the callback of the standard unless told', () => {
    const parsed = parse({}).interworking!
    expect(parsed.tls).toEqual({ certificate: '/etc/kme.pem', privateKey: '/etc/kme.key', ca: '/etc/site-ca.pem' })
    expect(parsed.neighbours).toEqual([
      {
        ...neighbour,
        callbackUrl: 'https://kme-x.example/kmapi/v1/ext_keys/ack',
        synchronous: false,
        deadlineMs: 5000,
        requestsPerS: 500,
        keysPerS: 10_000,
      },
    ])
    const other = parse({ neighbours: [{ ...neighbour, callbackUrl: 'https://acks.example:9/here' }] }).interworking!
    expect(other.neighbours[0]!.callbackUrl).toBe('https://acks.example:9/here')
  })

  it.each([
    [{ certificate: undefined }, 'interworking.neighbours[0].certificate: missing'],
    [{ certificate: {} }, 'interworking.neighbours[0].certificate: expected uri or commonName, one of them'],
    [
      { certificate: { uri: 'urn:x', commonName: 'X' } },
      'interworking.neighbours[0].certificate: expected uri or commonName, one of them',
    ],
    [{ url: 'https://kme-x.example/path' }, 'interworking.neighbours[0].url: expected https://host:port'],
    [
      { callbackUrl: 'http://kme-x.example/' },
      'interworking.neighbours[0].callbackUrl: expected https://host/path without user name and query',
    ],
    [{ id: 'kme-a' }, 'interworking.neighbours[0].id: this KME itself'],
    [{ id: 'kme-b' }, 'interworking.neighbours[0].id: kme-b is among the peers'],
    [{ colour: 'blue' }, 'interworking.neighbours[0].colour: unknown setting'],
  ])('a neighbour with %j is told what is wrong', (changes, fault) => expect(withNeighbour(changes)).toEqual([fault]))

  it('has each neighbour once, and no certificate for two', () => {
    expect(faultsOf({ neighbours: [neighbour, { ...neighbour, id: 'kme-y' }] })).toEqual([
      'interworking.neighbours[1].certificate: KME X appears twice',
    ])
    expect(faultsOf({ neighbours: [neighbour, { ...neighbour, certificate: { uri: 'urn:y' } }] })).toEqual([
      'interworking.neighbours[1].id: kme-x appears twice',
    ])
  })

  it('needs a port of its own and an authority', () => {
    expect(faultsOf({ port: 8451 })).toEqual(['interworking.port: 8451 is taken by peerApi'])
    expect(faultsOf({ tls })).toEqual(['interworking.tls.ca: missing'])
    expect(faultsOf({ url: undefined })).toEqual(['interworking.url: missing'])
  })

  it('leaves no link the name of received keys', () => {
    const links = [{ id: 'received:kme-x', peer: 'kme-b', driver: 'tcp', port: 9001 }]
    expect(faultsOf({}, { links })).toEqual(['links[0].id: no link is called received:...'])
  })
})
