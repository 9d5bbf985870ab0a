/** How many secret bits a block holds: finite-key lengths from observed counts.
 *  Two decoys: Lim, Curty, Walenta, Xu, Zbinden, PRA 89, 022307 (2014). One decoy: Rusca, Boaron, Grunenfelder, Martin, Zbinden,
 *  APL 112, 171104 (2018). Single photons: Tomamichel, Lim, Gisin, Renner, Nat. Commun. 3, 634 (2012).
 *
 *  Holds: key comes from basis X and the test from basis Z, and all intensities give key. Every bound is clipped to what is possible
 *  (counts between 0 and what was counted, an error rate of at most 1/2), so a length is never negative and never exceeds the
 *  block; numbers no honest link can show prove nothing and count as an error rate of 1/2. Both ends of a link call `keyLength`
 *  with the same counts and get the same integer: doubles in a fixed order, nothing else. */
import { binaryEntropy } from './binary-entropy.ts'
import type { Bb84Profile } from './profile.ts'

/** Clicks of a block by index of the intensity, after sifting. Expected counts need not be whole. */
export interface BlockCounts {
  /** Both in the key basis. */
  readonly nX: readonly number[]
  /** Both in the test basis. */
  readonly nZ: readonly number[]
  /** Of nZ, where Bob's bit differs. */
  readonly mZ: readonly number[]
  /** Of nX, where Bob's bit differed before reconciliation. One decoy needs it, in place of the vacuum state. */
  readonly mX?: readonly number[]
}

/** The part of a profile the length depends on. */
export type KeyLengthParameters = Pick<
  Bb84Profile,
  'intensities' | 'intensityProbabilities' | 'epsilonSecrecy' | 'epsilonCorrectness'
>

export interface KeyLength {
  /** l: whole secret bits to distil, 0 when there are none. */
  readonly lengthBits: number
  /** The formula before rounding down and clipping at 0: how far a block is from giving key. */
  readonly unclippedBits: number
  /** Lower bound of vacuum events in the key basis. */
  readonly sX0: number
  /** Lower bound of single-photon events in the key basis. */
  readonly sX1: number
  /** Lower bound of vacuum events in the test basis; with one decoy the upper bound, which is what its proof uses. */
  readonly sZ0: number
  /** Lower bound of single-photon events in the test basis. */
  readonly sZ1: number
  /** Upper bound of errors among the single-photon events of the test basis. */
  readonly vZ1: number
  /** Upper bound of the phase error rate of the single-photon events in the key basis. */
  readonly phi: number
}

/** Error terms that share eps_sec: 21 in Lim 2014, 19 in Rusca 2018. */
const TERMS_TWO_DECOYS = 21
const TERMS_ONE_DECOY = 19

const total = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)
const clip = (value: number, most: number): number => Math.min(Math.max(value, 0), most)

/** tau_n = sum over k of p_k exp(-k) k^n / n!, the probability that a pulse has n photons, for n = 0 and 1. */
const photonNumbers = ({ intensities, intensityProbabilities }: KeyLengthParameters) => ({
  tau0: intensities.reduce((sum, mu, k) => sum + intensityProbabilities[k]! * Math.exp(-mu), 0),
  tau1: intensities.reduce((sum, mu, k) => sum + intensityProbabilities[k]! * Math.exp(-mu) * mu, 0),
})

/** Hoeffding: how far a count of one intensity may be from its mean, given the count of all. Natural logarithm. */
const deviation = (all: number, terms: number, epsilonSecrecy: number): number =>
  Math.sqrt((all / 2) * Math.log(terms / epsilonSecrecy))

/** n+ and n- of each intensity: (exp(k) / p_k) (n_k +- deviation of the total). */
const scaledBounds = (counts: readonly number[], terms: number, parameters: KeyLengthParameters) => {
  const delta = deviation(total(counts), terms, parameters.epsilonSecrecy)
  const scale = (k: number) => Math.exp(parameters.intensities[k]!) / parameters.intensityProbabilities[k]!
  return {
    upper: counts.map((count, k) => scale(k) * (count + delta)),
    lower: counts.map((count, k) => scale(k) * (count - delta)),
  }
}

/** What sampling without replacement adds to an error rate b seen in c events when it is applied to d others: gamma(a, b, c, d). */
const samplingCorrection = (epsilonSecrecy: number, rate: number, tested: number, kept: number, terms: number): number => {
  const variance = (1 - rate) * rate
  const sizes = (tested + kept) / (tested * kept)
  const logarithm = Math.log2((sizes / variance) * ((terms * terms) / (epsilonSecrecy * epsilonSecrecy)))
  return Math.sqrt(((sizes * variance) / Math.LN2) * logarithm)
}

/** phi: the error rate of the test basis, carried over to the key basis. */
const phaseError = (vZ1: number, sZ1: number, sX1: number, terms: number, epsilonSecrecy: number): number => {
  if (!(sZ1 > 0 && sX1 > 0) || vZ1 < 0) return 0.5
  // A test that met no error at all would leave gamma no room: count one.
  const rate = Math.max(vZ1, 1) / sZ1
  if (!(rate < 0.5)) return 0.5
  return Math.min(0.5, rate + samplingCorrection(epsilonSecrecy, rate, sZ1, sX1, terms))
}

const finished = (
  bounds: Omit<KeyLength, 'lengthBits' | 'unclippedBits'>,
  counts: BlockCounts,
  leakBits: number,
  terms: number,
  { epsilonSecrecy, epsilonCorrectness }: KeyLengthParameters,
): KeyLength => {
  const unclippedBits =
    bounds.sX0 +
    bounds.sX1 * (1 - binaryEntropy(bounds.phi)) -
    leakBits -
    6 * Math.log2(terms / epsilonSecrecy) -
    Math.log2(2 / epsilonCorrectness)
  return { ...bounds, unclippedBits, lengthBits: clip(Math.floor(unclippedBits), total(counts.nX)) }
}

const demandCounts = (name: string, counts: readonly number[], intensities: number, most?: readonly number[]) => {
  const possible = (count: number, k: number) => Number.isFinite(count) && count >= 0 && (most === undefined || count <= most[k]!)
  if (counts.length !== intensities || !counts.every(possible)) {
    throw new RangeError(`${name} is not ${intensities} possible counts of events`)
  }
}

const demand = (counts: BlockCounts, leakBits: number, { intensities }: KeyLengthParameters) => {
  demandCounts('nX', counts.nX, intensities.length)
  demandCounts('nZ', counts.nZ, intensities.length)
  demandCounts('mZ', counts.mZ, intensities.length, counts.nZ)
  if (counts.mX !== undefined) demandCounts('mX', counts.mX, intensities.length, counts.nX)
  if (!(leakBits >= 0)) throw new RangeError('leakBits is not a number of bits')
}

/** Lim 2014, eqs. (1) to (5): intensities mu1 > mu2 + mu3, mu2 > mu3 >= 0.
 *  @param leakBits every bit the reconciliation disclosed, not an estimate.
 *  @throws RangeError when the counts do not belong to three intensities or are impossible. */
export const keyLengthTwoDecoys = (counts: BlockCounts, leakBits: number, parameters: KeyLengthParameters): KeyLength => {
  const [mu1, mu2, mu3] = parameters.intensities
  if (mu1 === undefined || mu2 === undefined || mu3 === undefined || parameters.intensities.length !== 3) {
    throw new RangeError('two decoys are three intensities')
  }
  demand(counts, leakBits, parameters)
  const terms = TERMS_TWO_DECOYS
  const { tau0, tau1 } = photonNumbers(parameters)

  const vacuumAndSingles = (observed: readonly number[]) => {
    const { upper, lower } = scaledBounds(observed, terms, parameters)
    const all = total(observed)
    const s0 = clip((tau0 * (mu2 * lower[2]! - mu3 * upper[1]!)) / (mu2 - mu3), all)
    const s1 =
      (tau1 * mu1 * (lower[1]! - upper[2]! - ((mu2 * mu2 - mu3 * mu3) / (mu1 * mu1)) * (upper[0]! - s0 / tau0))) /
      (mu1 * (mu2 - mu3) - mu2 * mu2 + mu3 * mu3)
    return { s0, s1: clip(s1, all - s0) }
  }
  const x = vacuumAndSingles(counts.nX)
  const z = vacuumAndSingles(counts.nZ)
  const errors = scaledBounds(counts.mZ, terms, parameters)
  const vZ1 = (tau1 * (errors.upper[1]! - errors.lower[2]!)) / (mu2 - mu3)
  const phi = phaseError(vZ1, z.s1, x.s1, terms, parameters.epsilonSecrecy)
  return finished({ sX0: x.s0, sX1: x.s1, sZ0: z.s0, sZ1: z.s1, vZ1, phi }, counts, leakBits, terms, parameters)
}

/** Rusca 2018, appendix A: intensities mu1 > mu2 > 0, the upper bound of the vacuum events taken from the errors.
 *  @param leakBits every bit the reconciliation disclosed, not an estimate.
 *  @throws RangeError when the counts do not belong to two intensities, are impossible, or mX is missing. */
export const keyLengthOneDecoy = (counts: BlockCounts, leakBits: number, parameters: KeyLengthParameters): KeyLength => {
  const [mu1, mu2] = parameters.intensities
  if (mu1 === undefined || mu2 === undefined || parameters.intensities.length !== 2) {
    throw new RangeError('one decoy is two intensities')
  }
  if (counts.mX === undefined) throw new RangeError('one decoy needs mX, the errors of the key basis')
  demand(counts, leakBits, parameters)
  const terms = TERMS_ONE_DECOY
  const { tau0, tau1 } = photonNumbers(parameters)

  const vacuumAndSingles = (observed: readonly number[], wrong: readonly number[]) => {
    const { upper, lower } = scaledBounds(observed, terms, parameters)
    const all = total(observed)
    const drift = deviation(all, terms, parameters.epsilonSecrecy)
    // Half of the vacuum events are errors: twice the errors bound them, those of one intensity or of all.
    const most = Math.min(
      ...scaledBounds(wrong, terms, parameters).upper.map((errors) => 2 * (tau0 * errors + drift)),
      2 * (total(wrong) + drift),
    )
    const least = clip((tau0 * (mu1 * lower[1]! - mu2 * upper[0]!)) / (mu1 - mu2), all)
    const ratio = (mu2 * mu2) / (mu1 * mu1)
    const s1 = ((tau1 * mu1) / (mu2 * (mu1 - mu2))) * (lower[1]! - ratio * upper[0]! - (1 - ratio) * (most / tau0))
    return { least, most: Math.min(most, all), s1: clip(s1, all - least) }
  }
  const x = vacuumAndSingles(counts.nX, counts.mX)
  const z = vacuumAndSingles(counts.nZ, counts.mZ)
  const errors = scaledBounds(counts.mZ, terms, parameters)
  const vZ1 = (tau1 * (errors.upper[0]! - errors.lower[1]!)) / (mu1 - mu2)
  const phi = phaseError(vZ1, z.s1, x.s1, terms, parameters.epsilonSecrecy)
  return finished({ sX0: x.least, sX1: x.s1, sZ0: z.most, sZ1: z.s1, vZ1, phi }, counts, leakBits, terms, parameters)
}

/** The length of a link's block: Lim's with three intensities, Rusca's with two.
 *  @throws RangeError for other numbers of intensities (weak pulses without decoy states are not secure) and impossible counts. */
export const keyLength = (parameters: KeyLengthParameters, counts: BlockCounts, leakBits: number): KeyLength => {
  switch (parameters.intensities.length) {
    case 3:
      return keyLengthTwoDecoys(counts, leakBits, parameters)
    case 2:
      return keyLengthOneDecoy(counts, leakBits, parameters)
    default:
      throw new RangeError('weak pulses without decoy states are not secure: give two or three intensities')
  }
}

export interface SinglePhotonBlock {
  /** n: sifted bits kept for the key. */
  readonly keyBits: number
  /** k: sifted bits compared and thrown away. */
  readonly testBits: number
  /** Q_tol: error rate of the compared bits. */
  readonly errorRate: number
  readonly leakBits: number
  readonly epsilonSecrecy: number
  readonly epsilonCorrectness: number
}

/** Tomamichel 2012, eq. (2), for a true single-photon source; a weak laser is none.
 *  l = n (1 - h(Q + m)) - leak - log2(2 / (eps_sec^2 eps_cor)), m = sqrt((n + k) / (n k) (k + 1) / k ln(4 / eps_sec)). */
export const keyLengthSinglePhoton = (block: SinglePhotonBlock): Pick<KeyLength, 'lengthBits' | 'unclippedBits' | 'phi'> => {
  const { keyBits: n, testBits: k, epsilonSecrecy, epsilonCorrectness } = block
  if (!(n > 0 && k > 0)) return { lengthBits: 0, unclippedBits: 0, phi: 0.5 }
  const margin = Math.sqrt(((n + k) / (n * k)) * ((k + 1) / k) * Math.log(4 / epsilonSecrecy))
  const phi = Math.min(0.5, block.errorRate + margin)
  const unclippedBits =
    n * (1 - binaryEntropy(phi)) - block.leakBits - Math.log2(2 / (epsilonSecrecy * epsilonSecrecy * epsilonCorrectness))
  return { phi, unclippedBits, lengthBits: clip(Math.floor(unclippedBits), n) }
}
