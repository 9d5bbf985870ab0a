/** When session keys are replaced: after a while, after many messages, or when an operator says so. */
import type { KmeId } from '../kernel/identifiers.ts'

export interface RekeyPolicy {
  readonly afterMs: number
  readonly afterMessages: number
  /** Counts the commands of operators. */
  readonly generation: (peerKmeId: KmeId) => number
}

export interface SessionAge {
  readonly ageMs: number
  readonly messages: number
  /** Of the policy when the session was opened. */
  readonly generation: number
}

export const isDue = (policy: RekeyPolicy, peerKmeId: KmeId, { ageMs, messages, generation }: SessionAge): boolean =>
  ageMs >= policy.afterMs || messages >= policy.afterMessages || generation !== policy.generation(peerKmeId)
