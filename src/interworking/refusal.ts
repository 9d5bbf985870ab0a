/** A request of a neighbour that is refused, in the words of ETSI GS QKD 020. Thrown by whoever finds the reason, answered by routes.ts.
 *  Holds: no value of the caller is echoed. */
import type { InterworkingProblem } from '../http/interworking-problem.ts'

export class Refusal extends Error {
  readonly status: 400 | 503
  readonly problem: InterworkingProblem
  readonly details: Readonly<Record<string, string>>
  constructor(status: 400 | 503, problem: InterworkingProblem, details: Readonly<Record<string, string>>) {
    super(`${problem}: ${Object.values(details).join(', ')}`)
    this.name = 'Refusal'
    this.status = status
    this.problem = problem
    this.details = details
  }
}

export const missingParameters = (names: readonly string[]): Refusal =>
  new Refusal(400, 'missing-parameters', { missing_parameters: names.join(', ') })

/** @param reason what the parameter shall be. */
export const invalidParameter = (name: string, reason: string): Refusal =>
  new Refusal(400, 'invalid-parameter', { [name]: reason })

export const unknownTarget = (): Refusal =>
  new Refusal(400, 'key-routing-error', {
    target_sae_id_not_recognized: 'a target SAE is not known here, or not to this initiator',
  })

export const invalidRouting = (reason: string): Refusal => new Refusal(400, 'key-routing-error', { invalid_routing: reason })

export const unsupportedExtension = (count: number): Refusal =>
  new Refusal(503, 'unsupported-mandatory-extension', { unsupported_mandatory_extension: `${count} not supported` })

export const noRoute = (targetCount: number): Refusal =>
  targetCount > 1
    ? new Refusal(503, 'key-routing-error', { no_route_multiple_targets: 'these targets cannot be reached together' })
    : new Refusal(503, 'key-routing-error', { no_known_route: 'the target cannot be reached' })

export const tooManyKeys = (): Refusal =>
  new Refusal(503, 'server-side-general-error', { server_side_general_error: 'too many keys wait for their targets' })
