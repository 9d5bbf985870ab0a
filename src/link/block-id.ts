/** The name of a block inside and between KMEs: a UUID both ends compute from the link and the device's block ID. */
import { createHash } from 'node:crypto'
import type { BlockId, LinkId } from '../kernel/identifiers.ts'

/** A version 8 UUID (RFC 9562, 5.8) over the two names; says nothing about the key bytes. */
export const blockIdOf = (linkId: LinkId, deviceBlock: string): BlockId => {
  const hash = createHash('sha256').update(`openkme block id 1|${linkId}|${deviceBlock}`).digest().subarray(0, 16)
  hash[6] = 0x80 | ((hash[6] as number) & 0x0f)
  hash[8] = 0x80 | ((hash[8] as number) & 0x3f)
  const hex = hash.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-') as BlockId
}
