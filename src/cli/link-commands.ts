/** QKD links for operators: `kme link show`, and `kme link new-secret`, which makes what two KMEs need before their link can authenticate
 *  its first messages. */
import type { Command } from 'commander'
import type { components } from '../generated/admin.ts'
import { infiniteDecoyRate } from '../bb84/asymptotic-rate.ts'
import { expectedDetection, transmittance } from '../bb84/detection-model.ts'
import { expectedBlock, optimise } from '../bb84/expected-rate.ts'
import { PROFILE_NAMES, profileNamed, quantised, type Bb84Profile } from '../bb84/profile.ts'
import { systemRandom } from '../kernel/random.ts'
import {
  PRE_SHARED_BYTES_DEFAULT,
  PRE_SHARED_BYTES_MAX,
  PRE_SHARED_BYTES_MIN,
  writePreSharedSecret,
} from '../link/pre-shared-secret.ts'
import { asAdmin, withAdminOptions, type AdminOptions } from './admin-access.ts'
import { age, decimal, table, toJson, wholeNumber } from './terminal.ts'

type Schemas = components['schemas']

/** Adds `new-secret`, which asks no KME, to the group `link`. */
export const addNewSecret = (link: Command): void => {
  link
    .command('new-secret <file>')
    .description('write a new pre-shared secret for one QKD link (mode 0600)')
    .option(
      '--bytes <n>',
      'how many secret bytes',
      wholeNumber(PRE_SHARED_BYTES_MIN, PRE_SHARED_BYTES_MAX),
      PRE_SHARED_BYTES_DEFAULT,
    )
    .addHelpText(
      'after',
      `
The two KMEs of the link authenticate their first blocks with it; later ones with key that the link made. Copy the file to both over a
way nobody listens to, name it in the configuration of the link, and remove it from wherever else it was. A KME takes a secret once:
when both have used one up without making key, they need a new one.`,
    )
    .action(async (file: string, { bytes }: { bytes: number }) => {
      const segmentId = await writePreSharedSecret(file, bytes, systemRandom)
      console.log(`${file}: secret ${segmentId}, ${bytes} bytes. Copy it to both ends of one link.`)
    })
}

/** Adds `show` to the group `link`. */
export const addShowLink = (link: Command): void => {
  withAdminOptions(link.command('show <linkId>'))
    .description('show one link: for a BB84 link also the rate its model gives, its authentication key and its security')
    .action((linkId: string, options: AdminOptions) =>
      asAdmin(options, async (client) => {
        const { links } = (await client.get('links')) as unknown as Schemas['LinkList']
        const found = links.find((one) => one.linkId === linkId)
        if (found === undefined) throw new Error(`this KME has no link "${linkId}"; "kme link list" shows those it has`)
        console.log(options.json === true ? toJson(found) : linkSheet(found))
      }),
    )
}

/** One link, line by line. */
const linkSheet = (link: Schemas['Link']): string => {
  const { distillation } = link
  const measured: [string, string][] = [
    ['link', `${link.linkId} to ${link.peerKmeId}, driver ${link.driver}`],
    ['state', link.reason === null ? link.state : `${link.state}: ${link.reason}`],
    ['qber', link.qber === null ? '-' : `${(link.qber * 100).toFixed(2)} %`],
    ['key rate, last minute', `${Math.round(link.keyRateBps)} bit/s`],
    ['blocks', `${link.blocksAgreed} agreed, ${link.blocksRejected} rejected; newest ${age(link.newestBlockAgeMs)}`],
  ]
  if (distillation === null) return table(['', ''], measured)
  const { authentication, security } = distillation
  return table(
    ['', ''],
    [
      ...measured.slice(0, 4),
      ['key rate, expected', `${Math.round(distillation.expectedKeyRateBps)} bit/s by the finite-key bound, when nobody listens`],
      ...measured.slice(4),
      ['distilled', `${security.keyBits} bits of key in ${security.blocks} blocks`],
      ['security', `all of it is secret and equal but for a probability of ${security.epsilonSum.toExponential(2)}`],
      [
        'authentication key',
        `${authentication.remainingBits} bits left; ${authentication.consumedBits} used, ${authentication.replenishedBits} came in`,
      ],
    ],
  )
}

export const linkTable = (links: readonly Schemas['Link'][]): string =>
  table(
    ['link', 'peer', 'driver', 'state', 'qber', 'key rate', 'agreed', 'rejected', 'newest block', 'reason'],
    links.map((link) => [
      link.linkId,
      link.peerKmeId,
      link.driver,
      link.state,
      link.qber === null ? '-' : `${(link.qber * 100).toFixed(2)} %`,
      `${Math.round(link.keyRateBps)} bit/s`,
      String(link.blocksAgreed),
      String(link.blocksRejected),
      age(link.newestBlockAgeMs),
      link.reason ?? '-',
    ]),
  )

interface ModelOptions {
  readonly distanceKm?: number
  readonly pulseRateHz?: number
  readonly blockBits?: number
  readonly efficiency: number
  readonly optimise?: boolean
  readonly json?: boolean
}

/** Adds `model` to the group `link`. */
export const addModel = (link: Command): void => {
  link
    .command('model <profile>')
    .description(`what a BB84 link should give by its model, without any KME; profiles: ${PROFILE_NAMES.join(', ')}`)
    .option('--distance-km <n>', 'another length of fibre', decimal(0, 1000))
    .option('--pulse-rate-hz <n>', 'another pulse rate', decimal(1, 1e11))
    .option('--block-bits <n>', 'another number of sifted bits per block', wholeNumber(1000, 10_000_000))
    .option('--efficiency <f>', 'of reconciliation: disclosed bits over n h(QBER)', decimal(1, 2), EXPECTED_EFFICIENCY)
    .option('--optimise', 'with the intensities, probabilities and bias of bases that give the most key there')
    .option('--json', 'for programs')
    .action((name: string, options: ModelOptions) => {
      const { distanceKm, pulseRateHz, blockBits, efficiency } = options
      const overrides = { distanceKm, pulseRateHz, blockBits }
      const given = Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined))
      const named = profileNamed(name, given)
      const profile = options.optimise === true ? quantised(optimise(named, efficiency)) : named
      const model = modelOf(profile, efficiency)
      console.log(options.json === true ? toJson({ profile, ...model }) : modelSheet(profile, model))
    })
}

const EXPECTED_EFFICIENCY = 1.05

const modelOf = (profile: Bb84Profile, efficiency: number) => {
  const { darkCountProbability } = profile.receiver
  const { misalignment } = profile
  const ideal = { transmittance: transmittance(profile), backgroundYield: 1 - (1 - darkCountProbability) ** 2, misalignment }
  return {
    gains: expectedDetection(profile).matched.map(({ gain }) => gain),
    block: expectedBlock(profile, efficiency),
    /** Ma et al. 2005, both bases chosen evenly: what no number of decoys and pulses can exceed. */
    asymptoticBitsPerPulse: infiniteDecoyRate(ideal, profile.intensities[0] ?? 0, efficiency),
  }
}

const modelSheet = (profile: Bb84Profile, { gains, block, asymptoticBitsPerPulse }: ReturnType<typeof modelOf>): string =>
  table(
    ['', ''],
    [
      [
        'link',
        `${profile.name}: ${profile.distanceKm} km at ${profile.attenuationDbPerKm} dB/km, ${profile.pulseRateHz} pulses/s`,
      ],
      ['intensities', profile.intensities.map((mu) => mu.toPrecision(3)).join(', ')],
      ['sent with probability', profile.intensityProbabilities.map((share) => share.toFixed(4)).join(', ')],
      ['key basis chosen with', profile.keyBasisProbability.toFixed(4)],
      ['gains', gains.map((gain) => gain.toExponential(3)).join(', ')],
      ['qber', `${(block.qber * 100).toFixed(2)} %`],
      [
        'a block',
        `${profile.blockBits} sifted bits in ${block.seconds.toPrecision(3)} s, ${block.keyLength.lengthBits} bits of key`,
      ],
      ['phase error rate', `at most ${(block.keyLength.phi * 100).toFixed(2)} %`],
      ['sifted rate', `${Math.round(block.siftedBitsPerSecond)} bit/s`],
      ['key rate', `${Math.round(block.secretBitsPerSecond)} bit/s, ${block.secretBitsPerPulse.toExponential(3)} per pulse`],
      [
        'asymptotic key rate',
        `${asymptoticBitsPerPulse.toExponential(3)} per pulse: endless blocks and decoys, both bases as often`,
      ],
    ],
  )
