/** What this KME states of its own links. Amounts are powers of two, and one that is stated stays as long as the truth is within a
 *  factor of two of it: so a pool that fills and empties says something new only now and then. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { SignedStatement } from '../peer/peer.ts'
import { LINKS_PER_KME_MAX, orderLinks, readCertificates, signStatement, type SigningIdentity } from './statement.ts'
import type { LinkStateStatement, StatedLink } from './topology.ts'

/** A QKD link of this KME, as it is now. */
export interface LinkSight {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  /** Whether key comes in over it. */
  readonly isUp: boolean
  /** Whether the KME at its other end answers. */
  readonly peerAnswers: boolean
  /** Keys in the pool shared with the peer, issued by either. */
  readonly availableKeys: number
  readonly keyRateBps: number
}

/** @param before what was stated last. @returns what to state: equal to it when nothing changed that others need to know. */
export const stateLinks = (sights: readonly LinkSight[], before: readonly StatedLink[]): readonly StatedLink[] => {
  const links = sights.map(({ linkId, peerKmeId, isUp, peerAnswers, availableKeys, keyRateBps }): StatedLink => {
    const stated = before.find((link) => link.linkId === linkId)
    return {
      linkId,
      peerKmeId,
      availableKeys: damped(availableKeys, stated?.availableKeys),
      keyRateBps: damped(keyRateBps, stated?.keyRateBps),
      // Key that is stored can be used up while the devices rest; a full pool does not even start them.
      up: peerAnswers && (isUp || availableKeys >= 1),
    }
  })
  return orderLinks(links).slice(0, LINKS_PER_KME_MAX)
}

const damped = (amount: number, stated: number | undefined): number => {
  const rounded = amount < 1 ? 0 : 2 ** Math.floor(Math.log2(amount))
  if (stated === undefined || stated === 0 || rounded === 0) return rounded
  return amount >= 2 * stated || amount <= stated / 2 ? rounded : stated
}

/** What this KME signs with. */
export interface OwnIdentity {
  /** @throws Error when the key is of a type nothing can be signed with here. */
  sign(statement: LinkStateStatement): SignedStatement
  /** Whether a statement bears the certificate in use. */
  isCurrent(signed: SignedStatement): boolean
}

/** @param current certificate and key in use: they may be replaced while the KME runs. */
export const createOwnIdentity = (current: () => SigningIdentity): OwnIdentity => {
  let certificatePem: string | undefined
  let certificate: Buffer | undefined
  return {
    sign: (statement) => signStatement(statement, current()),
    isCurrent: ({ certificates }) => {
      const pem = current().certificatePem
      if (pem !== certificatePem) certificate = readCertificates(pem)[0]?.raw
      certificatePem = pem
      return certificate !== undefined && certificates[0]?.equals(certificate) === true
    },
  }
}
