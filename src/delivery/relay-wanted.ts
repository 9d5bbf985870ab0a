/** How the keys of a request are to be relayed that pass other KMEs (docs/relay.md): what the operator wants for the pair of SAEs, and what the
 *  request asks for by extension. */
import { ANY_WAY, bothPolicies, coversPolicy, type RelayPolicy } from '../key-store/key-store.ts'
import type { RelayExtensions } from './extensions.ts'

/** How keys are to be relayed that pass other KMEs; undefined: in whatever way. */
export interface RelayWanted {
  readonly must: RelayPolicy | undefined
  /** Tried first, where it is more. */
  readonly wish: RelayPolicy | undefined
  /** Whether the request says anything of it: then it is told what it got. */
  readonly isAsked: boolean
  /** Whether it insists: then keys that cannot be had are its mistake (clause 6.2). */
  readonly isMandatory: boolean
}

/** @param ofPairs what the operator wants for the master and each of the slaves. */
export const relayWanted = (ofPairs: readonly (RelayPolicy | undefined)[], asked: RelayExtensions | undefined): RelayWanted => {
  const ofAll = ofPairs.reduce(
    (all, one) => (all === undefined || one === undefined ? (all ?? one) : bothPolicies(all, one)),
    undefined,
  )
  if (asked === undefined) return { must: ofAll, wish: undefined, isAsked: false, isMandatory: false }
  const { paths, endToEnd, pathsWished, endToEndWished } = asked
  const isMandatory = paths > 1 || endToEnd
  const insisted = bothPolicies(ofAll ?? ANY_WAY, { ...ANY_WAY, paths, endToEnd })
  const wish = bothPolicies(insisted, { ...ANY_WAY, paths: pathsWished, endToEnd: endToEndWished })
  return {
    must: isMandatory ? insisted : ofAll,
    wish: coversPolicy(insisted, wish) ? undefined : wish,
    isAsked: true,
    isMandatory,
  }
}
