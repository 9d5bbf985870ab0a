/** Headers that can only be made when the whole answer is known, such as a MAC over it. */
import type { ServerResponse } from 'node:http'

/** @returns header names and values in turn. */
export type AnswerSeal = (status: number, body: string) => readonly string[]

const sealKey = Symbol('seal')

interface SealedResponse extends ServerResponse {
  [sealKey]?: AnswerSeal
}

/** Every answer to this request, an error included, carries what `seal` makes of it. */
export const sealAnswer = (res: ServerResponse, seal: AnswerSeal): void => {
  const sealed = res as SealedResponse
  sealed[sealKey] = seal
}

/** @returns header names and values in turn; none for an answer that is not sealed. */
export const sealHeaders = (res: ServerResponse, status: number, body: string): readonly string[] =>
  (res as SealedResponse)[sealKey]?.(status, body) ?? []
