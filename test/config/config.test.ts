/** What is said about a configuration file that cannot be used. */
import { describe, expect, it } from '@jest/globals'
import { stringify } from 'yaml'
import { profileNamed } from '../../src/bb84/profile.ts'
import { ConfigError, parseConfig, poolMarksOf, type Config } from '../../src/config/config.ts'

const tls = { certificate: 'kme.pem', privateKey: 'kme.key' }
const good = {
  kme: { id: 'kme-a' },
  custody: { passphraseFile: 'passphrase' },
  saeApi: { port: 8441, tls: { ...tls, clientCa: 'sae-ca.pem' } },
  peerApi: { port: 8451, tls: { ...tls, ca: 'kme-ca.pem' } },
  adminApi: { port: 8461, tls, tokenKey: 'token.pem' },
  peers: [{ id: 'kme-b', url: 'https://kme-b.example:8451' }],
  links: [{ id: 'a-b', peer: 'kme-b', driver: 'tcp', port: 9001 }],
  saes: [
    { id: 'alice', kme: 'kme-a', sharesWith: ['bob'] },
    { id: 'bob', kme: 'kme-b' },
  ],
}

const parse = (changes: object): Config => parseConfig(stringify({ ...good, ...changes }), '/etc/kme.yaml')
const faultsOf = (changes: object): readonly string[] => {
  try {
    parse(changes)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
}

describe('a configuration', () => {
  it('that is fine is accepted', () => expect(faultsOf({})).toEqual([]))

  it('has all its mistakes listed at once, those of one setting and those between two', () => {
    const faults = faultsOf({
      adminApi: { port: 8441, tls },
      keys: { minSizeBits: 512, sizeBits: 256, maxPerRequest: 0, color: 'blue' },
      peers: [...good.peers, { id: 'kme-a', url: 'http://kme-a' }, { id: 'kme-b', url: 'https://other.example' }],
      links: [...good.links, { id: 'a-b', peer: 'kme-x', driver: 'tcp', port: 'many' }],
      saes: [{ id: 'alice', kme: '', sharesWith: ['carol', 'alice'] }],
    })
    const expected = [
      'adminApi.tokenKey: missing',
      'adminApi.port: 8441 is taken by saeApi',
      'keys.color: unknown setting',
      expect.stringMatching(/^keys\.maxPerRequest: /),
      'keys.minSizeBits: larger than keys.sizeBits',
      'peers[1].id: this KME itself',
      'peers[1].url: expected https://host:port',
      'peers[2].id: kme-b appears twice',
      'links[1].id: a-b appears twice',
      'links[1].peer: kme-x is not among the peers',
      expect.stringMatching(/^links\[1\]\.port: /),
      expect.stringMatching(/^saes\[0\]\.kme: not a KME ID/),
      'saes[0].sharesWith: carol is not among the saes',
      'saes[0].sharesWith: alice is the SAE itself',
    ]
    expect(faults).toEqual(expect.arrayContaining(expected))
    expect(faults).toHaveLength(expected.length)
  })

  it.each([
    [{ custody: undefined }, 'custody: missing'],
    [{ kme: { id: null } }, 'kme.id: missing'],
    [{ saeApi: { port: 1, tls } }, 'saeApi.tls.clientCa: missing'],
    [{ peers: [{ id: 'kme-b' }] }, 'peers[0].url: missing'],
    [{ links: [{ id: 'a-b', peer: 'kme-b', port: 9001 }] }, 'links[0].driver: missing'],
  ])('without a setting it must have says that it is missing (%j)', (changes, fault) =>
    expect(faultsOf(changes)).toEqual([fault]),
  )

  it('of a peer says how its messages are sealed and which certificates it may show', () => {
    const url = 'https://kme-b.example:8452'
    const digits = '6f'.repeat(32)
    const fingerprint = Array(32).fill('6F').join(':')
    const peerWith = (settings: object) => ({ peers: [{ id: 'kme-b', url, ...settings }] })
    expect(parse(peerWith({})).peers[0]).toMatchObject({
      sessions: 'required',
      mixQkdKey: 'prefer',
      firstContact: 'authority',
      certificateFingerprints: [],
    })
    expect(parse(peerWith({ certificateFingerprints: [digits, fingerprint] })).peers[0]!.certificateFingerprints).toEqual([
      fingerprint,
      fingerprint,
    ])
    expect(parse({}).peerApi.sessions).toEqual({ rekeyAfterS: 300, rekeyAfterMessages: 1_000_000 })
    expect(faultsOf(peerWith({ certificateFingerprints: ['6F:1C'] }))).toEqual([
      'peers[0].certificateFingerprints[0]: not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons',
    ])
    expect(faultsOf(peerWith({ sessions: 'off', mixQkdKey: 'require' }))).toEqual([
      'peers[0].mixQkdKey: nothing can be mixed in while peers[0].sessions is off',
    ])
    expect(faultsOf({ ...peerWith({ mixQkdKey: 'require' }), links: [] })).toEqual([
      'peers[0].mixQkdKey: no link to kme-b brings QKD keys',
    ])
  })

  it('has no link whose weak pulses come without decoy states: the KME does not start', () => {
    const bb84 = (profile: object) => ({
      links: [
        {
          id: 'a-b',
          peer: 'kme-b',
          driver: 'bb84',
          role: 'alice',
          profile,
          photons: { port: 9100 },
          classical: { port: 9200 },
          authenticationKeyFile: 'a-b.key',
        },
      ],
    })
    expect(faultsOf(bb84({ name: 'metro' }))).toEqual([])
    for (const without of [
      { intensities: [0.5], intensityProbabilities: [1] },
      { intensities: [0.5, 0.1, 0.001], intensityProbabilities: [1, 0, 0] },
    ]) {
      const faults = faultsOf(bb84({ name: 'metro', ...without }))
      expect(faults).toHaveLength(1)
      expect(faults[0]).toMatch(/^links\[0\]\.profile: .*(without decoy states are not secure|an intensity is never sent)/)
    }
  })

  it.each([
    'https://kme-b:8451/kme/v1',
    'https://kme-b:8451/?x=1',
    'https://kme-b:8451?',
    'https://kme-b:8451#top',
    'https://me:secret@kme-b:8451',
    'http://kme-b:8451',
    'https://kme-b:port',
    'kme-b:8451',
    'https://',
    7,
  ])('wants the URL of a peer to be an origin, not %j', (url) =>
    expect(faultsOf({ peers: [{ id: 'kme-b', url }] })).toEqual(['peers[0].url: expected https://host:port']),
  )

  it.each(['https://kme-b', 'https://kme-b:8451', 'https://kme-b:8451/', 'https://[2001:db8::1]:8451'])(
    'takes %j as the URL of a peer',
    (url) => expect(faultsOf({ peers: [{ id: 'kme-b', url }] })).toEqual([]),
  )

  it.each([
    [{ host: '127.0.0.1', port: 8441 }, ['peerApi.port: 8441 is taken by saeApi']],
    [{ host: '0.0.0.0', port: 8441 }, ['peerApi.port: 8441 is taken by saeApi']],
    [{ host: '192.0.2.7', port: 8441 }, []],
  ])('has one listener on one host and port (%j)', (place, faults) =>
    expect(faultsOf({ peerApi: { ...good.peerApi, ...place } })).toEqual(faults),
  )

  it('may leave every port to the system', () =>
    expect(
      faultsOf({
        saeApi: { ...good.saeApi, port: 0 },
        peerApi: { ...good.peerApi, port: 0 },
        adminApi: { ...good.adminApi, port: 0 },
      }),
    ).toEqual([]))

  it.each([
    [{ lendFloor: 100, maxStored: 100 }, ['keys.lendFloor: not below keys.maxStored, so nothing would ever be lent']],
    [{ maxStored: 50 }, ['keys.lendFloor: not below keys.maxStored, so nothing would ever be lent']],
    [{ lendFloor: 99, maxStored: 100 }, []],
    [{ maxSizeBits: 128 }, ['keys.sizeBits: larger than keys.maxSizeBits']],
    [{ maxSizeBits: 1_048_576 }, []],
  ])('has sizes and counts that go together (%j)', (keys, faults) => expect(faultsOf({ keys })).toEqual(faults))

  it.each([
    [{ lowWatermark: 10, criticalWatermark: 10 }, ['pools.criticalWatermark: 10 is not below the low watermark 10']],
    [{ criticalWatermark: 2001 }, ['pools.criticalWatermark: 2001 is not below the low watermark 2000']],
    [{ lowWatermark: 300, highWatermark: 300 }, ['pools.lowWatermark: 300 is not below the high watermark 300']],
    [{ highWatermark: 100_001 }, ['pools.highWatermark: 100001 is more than the 100000 keys that may be stored']],
    [{ historyDays: 0 }, [expect.stringMatching(/^pools\.historyDays: /)]],
    [{ perPeer: [{ peer: 'kme-x' }] }, ['pools.perPeer[0].peer: kme-x is not among the peers']],
    [{ perPeer: [{ peer: 'kme-b' }, { peer: 'kme-b' }] }, ['pools.perPeer[1].peer: kme-b appears twice']],
    [
      { highWatermark: 1000, perPeer: [{ peer: 'kme-b', lowWatermark: 1000 }] },
      ['pools.perPeer[0].lowWatermark: 1000 is not below the high watermark 1000'],
    ],
    [
      { perPeer: [{ peer: 'kme-a', highWatermark: 2001 }] },
      ['pools.perPeer[0].highWatermark: 2001 is more than the 2000 keys that may be stored'],
    ],
    [
      { lowWatermark: 5, criticalWatermark: 6, highWatermark: 4, color: 'blue' },
      [
        'pools.color: unknown setting',
        'pools.criticalWatermark: 6 is not below the low watermark 5',
        'pools.lowWatermark: 5 is not below the high watermark 4',
      ],
    ],
    [
      {
        criticalWatermark: 0,
        perPeer: [
          { peer: 'kme-a', lowWatermark: 5 },
          { peer: 'kme-b', highWatermark: 4000 },
        ],
      },
      [],
    ],
  ])('has watermarks that go together (%j)', (pools, faults) => expect(faultsOf({ pools })).toEqual(faults))

  it('has watermarks that follow from what may be stored, unless they are written', () => {
    const [peer, own] = ['kme-b', 'kme-a'] as Config['kme']['id'][]
    const marks = (changes: object, of = peer) => Object.values(poolMarksOf(parse(changes), of!))
    expect(marks({})).toEqual([2000, 500, 100_000])
    expect(marks({ keys: { maxStored: 1000 } })).toEqual([100, 25, 1000])
    expect(marks({}, own)).toEqual([200, 50, 2000])
    const pools = { lowWatermark: 400, perPeer: [{ peer: 'kme-b', highWatermark: 5000, criticalWatermark: 7 }] }
    expect(marks({ pools })).toEqual([400, 7, 5000])
    expect(marks({ pools }, own)).toEqual([200, 50, 2000])
  })

  it('has no keys beyond a million bits', () =>
    expect(faultsOf({ keys: { maxSizeBits: 1_048_584 } })).toEqual([expect.stringMatching(/^keys\.maxSizeBits: .*1048576/)]))

  it('uses the device of a link for that link only', () => {
    const [link] = good.links
    const other = { ...link, id: 'a-b-2' }
    expect(faultsOf({ links: [link, other] })).toEqual(['links[1].port: the device at 127.0.0.1:9001 appears twice'])
    expect(faultsOf({ links: [link, { ...other, host: '10.0.0.2' }] })).toEqual([])
  })

  it('does not complain about a peer whose ID it cannot read, and not about links to it', () =>
    expect(faultsOf({ peers: [{ id: 'kme b', url: 'https://kme-b' }] })).toEqual([
      expect.stringMatching(/^peers\[0\]\.id: not a KME ID/),
    ]))

  it.each([
    [[{ peer: 'kme-b', source: 'peer-channel', maxKeysPerS: 10 }], []],
    [[{ peer: 'kme-x', source: 'peer-channel', maxKeysPerS: 10 }], ['pools.fallback[0].peer: kme-x is not among the peers']],
    [
      [
        { peer: 'kme-b', source: 'peer-channel', maxKeysPerS: 10 },
        { peer: 'kme-b', source: 'peer-channel', maxKeysPerS: 20 },
      ],
      ['pools.fallback[1].peer: kme-b appears twice'],
    ],
    [[{ peer: 'kme-b', source: 'peer-channel' }], ['pools.fallback[0].maxKeysPerS: missing']],
    [[{ peer: 'kme-b', source: 'none', maxKeysPerS: 10 }], [expect.stringMatching(/^pools\.fallback\[0\]\.source: /)]],
  ])('names the peers of the fallback source (%j)', (fallback, faults) =>
    expect(faultsOf({ pools: { fallback } })).toEqual(faults),
  )

  const far = { id: 'kme-c', url: 'https://kme-c' }
  it.each<[object, readonly unknown[]]>([
    [{ enabled: true, routes: [{ to: 'kme-c', via: ['kme-b'] }], perPeer: [{ peer: 'kme-c', paths: 2, endToEnd: true }] }, []],
    [{ routes: [{ to: 'kme-x', via: ['kme-b'] }] }, ['relay.routes[0].to: kme-x is not among the peers']],
    [
      { routes: [{ to: 'kme-b', via: ['kme-b'] }] },
      ['relay.routes[0].to: a link leads to kme-b', 'relay.routes[0].via: names a KME twice'],
    ],
    [{ routes: [{ to: 'kme-c', via: ['kme-d'] }] }, ['relay.routes[0].via: no link leads to kme-d']],
    [{ routes: [{ to: 'kme-c', via: ['kme-b', 'kme-a'] }] }, ['relay.routes[0].via: names a KME twice']],
    [{ maxHops: 2, routes: [{ to: 'kme-c', via: ['kme-b', 'kme-d'] }] }, ['relay.routes[0].via: more hops than relay.maxHops']],
    [{ routes: [{ to: 'kme-c', via: [] }] }, [expect.stringMatching(/^relay\.routes\[0\]\.via: /)]],
    [{ perPeer: [{ peer: 'kme-b' }] }, ['relay.perPeer[0].peer: a link leads to kme-b']],
    [{ perPeer: [{ peer: 'kme-c' }, { peer: 'kme-c' }] }, ['relay.perPeer[1].peer: kme-c appears twice']],
    [{ pairs: [{ master: 'alice', slave: 'bob', avoid: ['kme-x'], only: ['kme-b'], maxHops: 3 }] }, []],
    [{ pairs: [{ master: 'alice', slave: 'nobody' }] }, ['relay.pairs[0].slave: nobody is not among the saes']],
    [{ pairs: [{ master: 'alice', slave: 'bob', paths: 5 }] }, [expect.stringMatching(/^relay\.pairs\[0\]\.paths: /)]],
    [{ deadlineMs: 60_000 }, [expect.stringMatching(/^relay\.deadlineMs: /)]],
  ])('relays over links it has, to peers it has no link to (%j)', (relay, faults) =>
    expect(faultsOf({ peers: [...good.peers, far], relay })).toEqual(faults),
  )

  it('calls no link by the name of a relay', () =>
    expect(faultsOf({ links: [{ ...good.links[0], id: 'relay:kme-a:kme-b' }] })).toEqual([
      'links[0].id: no link is called relay:...',
    ]))

  it('calls no link by the name of a fallback source', () =>
    expect(faultsOf({ links: [{ ...good.links[0], id: 'fallback:kme-a:kme-b' }] })).toEqual([
      'links[0].id: no link is called fallback:...',
    ]))

  it.each([
    [{ defaults: { requestsPerS: 10, requestsBurst: 20, keysPerS: 0.5, keysPerDay: 1000 } }, []],
    [
      {
        defaults: { keysPerS: 5 },
        saes: [{ sae: 'alice', keysPerS: 'off' }],
        pairs: [{ master: 'alice', slave: 'bob', keysPerDay: 5 }],
      },
      [],
    ],
    [{ defaults: { keysPerS: 5 }, saes: [{ sae: 'alice', keysBurst: 50 }] }, []],
    [{ defaults: { keysPerS: 0 } }, ['quotas.defaults.keysPerS: Too small: expected number to be >0']],
    [{ defaults: { keysPerDay: 'none' } }, ["quotas.defaults.keysPerDay: expected a number above 0, or 'off'"]],
    [{ defaults: { keysBurst: 10 } }, ['quotas.defaults.keysBurst: without keysPerS it limits nothing']],
    [{ defaults: { requestsPerS: 10, requestsBurst: 9 } }, ['quotas.defaults.requestsBurst: below requestsPerS']],
    [{ defaults: { requestsPerS: 0.00001 } }, ['quotas.defaults.requestsPerS: takes more than a day to bring the burst']],
    [{ saes: [{ sae: 'zoe', keysPerS: 1 }] }, ['quotas.saes[0].sae: zoe is not among the saes']],
    [{ saes: [{ sae: 'bob' }, { sae: 'bob' }] }, ['quotas.saes[1].sae: bob appears twice']],
    [
      {
        pairs: [
          { master: 'alice', slave: 'zoe' },
          { master: 'bob', slave: 'alice' },
          { master: 'bob', slave: 'alice' },
        ],
      },
      ['quotas.pairs[0].slave: zoe is not among the saes', 'quotas.pairs[2].master: the pair bob and alice appears twice'],
    ],
  ])('has quotas that limit something, of SAEs it knows (%j)', (quotas, faults) => expect(faultsOf({ quotas })).toEqual(faults))
})

describe('a BB84 link', () => {
  const alice = {
    id: 'a-b',
    peer: 'kme-b',
    driver: 'bb84',
    role: 'alice',
    profile: 'metro',
    photons: { port: 9001 },
    classical: { port: 9101 },
    authenticationKeyFile: 'secrets/a-b',
  }
  const bob = { ...alice, role: 'bob', photons: { port: 9002 } }
  const faults = (...links: object[]): readonly string[] => faultsOf({ links })
  const faultsOfProfile = (profile: unknown): readonly string[] => faults({ ...alice, profile })
  const linkOf = (link: object) => {
    const [parsed] = parse({ links: [link] }).links
    if (parsed?.driver !== 'bb84') throw new Error('not a BB84 link')
    return parsed
  }

  it('needs a role, a profile, two addresses and an authentication key, and has defaults for the rest', () => {
    expect(linkOf(alice)).toEqual({
      ...alice,
      profile: profileNamed('metro'),
      slotsPerBurst: 262_144,
      photons: { host: '127.0.0.1', port: 9001 },
      classical: { host: '127.0.0.1', port: 9101 },
      authenticationKeyFile: '/etc/secrets/a-b',
      qberMax: 0.11,
    })
    expect(linkOf({ ...alice, authenticationKeyFile: '/run/a-b' }).authenticationKeyFile).toBe('/run/a-b')
    expect(faults({ id: 'a-b', peer: 'kme-b', driver: 'bb84' })).toEqual(
      ['role', 'profile', 'photons', 'classical', 'authenticationKeyFile'].map((name) => `links[0].${name}: missing`),
    )
  })

  it('takes a profile by name, or by name with some values replaced', () => {
    const profile = { name: 'gys', distanceKm: 40, receiver: { deadTimeNs: 50 }, blockBits: 200_000 }
    expect(linkOf({ ...alice, profile }).profile).toEqual(
      profileNamed('gys', { distanceKm: 40, receiver: { deadTimeNs: 50 }, blockBits: 200_000 }),
    )
    expect(linkOf({ ...alice, profile: { name: 'gys' } }).profile).toEqual(profileNamed('gys'))
  })

  it.each<[unknown, string | RegExp]>([
    ['moon', /^links\[0\]\.profile: unknown BB84 profile "moon"; there are lab-2014, metro/],
    [{ distanceKm: 5 }, 'links[0].profile.name: missing'],
    [{ name: 'metro', distance: 5 }, 'links[0].profile.distance: unknown setting'],
    [{ name: 'metro', distanceKm: 'far' }, /^links\[0\]\.profile\.distanceKm: /],
    [{ name: 'metro', distanceKm: 2000 }, /^links\[0\]\.profile: .*distanceKm is not between 0 and 1000/],
    [{ name: 'metro', receiver: { efficiency: 2 } }, /^links\[0\]\.profile\.receiver\.efficiency: /],
    [{ name: 'metro', receiver: { gain: 1 } }, 'links[0].profile.receiver.gain: unknown setting'],
    [{ name: 'metro', intensities: [0.6, 0.5, 0.2] }, /^links\[0\]\.profile: .*the intensities are not mu1 > mu2 \+ mu3/],
    [{ name: 'metro', blockBits: 10 }, /^links\[0\]\.profile: .*blockBits/],
    [{ name: 'metro', epsilonSecrecy: 0.5 }, /^links\[0\]\.profile: .*epsilonSecrecy/],
  ])('says what is wrong with the profile %j, and where', (profile, fault) =>
    expect(faultsOfProfile(profile)).toEqual([typeof fault === 'string' ? fault : expect.stringMatching(fault)]),
  )

  it('is refused without decoy states: weak pulses alone keep no secret', () =>
    expect(faultsOfProfile({ name: 'metro', intensities: [0.6], intensityProbabilities: [1] })).toEqual([
      expect.stringMatching(/^links\[0\]\.profile: .*without decoy states are not secure/),
    ]))

  it.each([
    [{ role: 'eve' }, /^links\[0\]\.role: /],
    [{ photons: { port: 0 } }, /^links\[0\]\.photons\.port: /],
    [{ classical: { port: 70_000 } }, /^links\[0\]\.classical\.port: /],
    [{ photons: { port: 9001, path: '/' } }, /^links\[0\]\.photons\.path: unknown setting$/],
    [{ authenticationKeyFile: 7 }, /^links\[0\]\.authenticationKeyFile: /],
    [{ slotsPerBurst: 100 }, /^links\[0\]\.slotsPerBurst: /],
    [{ host: '127.0.0.1' }, /^links\[0\]\.host: unknown setting$/],
  ])('says what is wrong with %j', (change, fault) =>
    expect(faults({ ...alice, ...change })).toEqual([expect.stringMatching(fault)]),
  )

  it("takes no seed, wherever it is written: randomness is the system's", () => {
    const whole = { ...good, links: [{ ...alice, profile: { name: 'metro', receiver: { deadTimeNs: 0 } } }] }
    const places: (readonly (string | number)[])[] = []
    const look = (value: unknown, at: readonly (string | number)[]): void => {
      if (Array.isArray(value)) return value.forEach((entry, i) => look(entry, [...at, i]))
      if (typeof value !== 'object' || value === null) return
      places.push(at)
      for (const [name, member] of Object.entries(value)) look(member, [...at, name])
    }
    look(whole, [])
    expect(places.length).toBeGreaterThan(10)
    for (const place of places) {
      for (const seed of ['seed', 'seeds', 'randomSeed', 'streams']) {
        const text = place.map((step) => (typeof step === 'number' ? `[${step}]` : `.${step}`)).join('')
        const path = `${text}.${seed}`.replace(/^\./, '')
        const seeded = structuredClone(whole)
        const target = place.reduce<Record<string | number, never>>((value, step) => value[step]!, seeded as never)
        Object.assign(target, { [seed]: 1 })
        expect(faultsOf(seeded)).toEqual([`${path}: unknown setting`])
      }
    }
  })

  it('has a port where Alice waits that nothing else of this KME has', () => {
    const other = { ...alice, id: 'a-c', photons: { port: 9003 }, authenticationKeyFile: 'secrets/a-c' }
    expect(faults(alice, other)).toEqual(['links[1].classical.port: 9101 is taken by links[0].classical'])
    expect(faults(alice, { ...other, classical: { host: '0.0.0.0', port: 9101 } })).toEqual([
      'links[1].classical.port: 9101 is taken by links[0].classical',
    ])
    expect(faults(alice, { ...other, classical: { host: '192.0.2.7', port: 9101 } })).toEqual([])
    expect(faults({ ...alice, classical: { port: 8461 } })).toEqual(['links[0].classical.port: 8461 is taken by adminApi'])
    // Bob's station calls: the port is at the other KME.
    expect(faults({ ...bob, classical: { host: 'kme-b.example', port: 8461 } })).toEqual([])
  })

  it('shares neither quantum channel nor station nor authentication key with another', () => {
    expect(faults(alice, { ...alice, id: 'a-c' })).toEqual([
      'links[1].classical.port: 9101 is taken by links[0].classical',
      'links[1].photons.port: the quantum channel at 127.0.0.1:9001 appears twice',
      'links[1].authenticationKeyFile: secrets/a-b appears twice',
    ])
    expect(faults(bob, { ...bob, id: 'b-c', photons: { port: 9004 }, authenticationKeyFile: 'other' })).toEqual([
      "links[1].classical.port: Alice's station at 127.0.0.1:9101 appears twice",
    ])
  })
})

describe('webhooks', () => {
  const webhook = { url: 'https://ops.example/hooks/kme', secretFile: 'secrets/webhook' }

  it('are named by an address of their own, and their files are seen from the folder of the file', () => {
    expect(parse({}).alarms).toEqual({ webhooks: [], quietS: 60 })
    expect(parse({ alarms: { webhooks: [{ ...webhook, caFile: '/ca.pem' }] } }).alarms.webhooks).toEqual([
      { ...webhook, secretFile: '/etc/secrets/webhook', caFile: '/ca.pem' },
    ])
    expect(faultsOf({ alarms: { webhooks: [webhook, webhook] } })).toEqual([
      'alarms.webhooks[1].url: https://ops.example/hooks/kme appears twice',
    ])
  })

  it.each([
    'http://ops.example/',
    'https://me:secret@ops.example/',
    'https://ops.example/?token=secret',
    'https://ops.example/#x',
    'ops',
  ])('are not reached at %j', (url) =>
    expect(faultsOf({ alarms: { webhooks: [{ ...webhook, url }] } })).toEqual([
      'alarms.webhooks[0].url: expected https://host/path without user name and query',
    ]),
  )
})
