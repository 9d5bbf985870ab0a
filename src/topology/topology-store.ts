/** What a KME remembers of the network. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { SignedStatement } from '../peer/peer.ts'

export interface StoredStatement {
  readonly kmeId: KmeId
  readonly sequence: number
  readonly signed: SignedStatement
}

export interface TopologyStore {
  /** The newest statement of each KME. */
  readAll(): Promise<readonly StoredStatement[]>
  /** Those of them whose sequence number is not the one named here. */
  readOthersThan(known: ReadonlyMap<KmeId, number>): Promise<readonly StoredStatement[]>
  /** Keeps a statement if it is newer than the one that is kept, durably. @returns whether it was. */
  put(statement: StoredStatement): Promise<boolean>
  /** Makes and keeps this KME's own next statement. Its sequence number is greater than all before, whichever process made them,
   *  and at least `atLeast`; only after numbers beyond `atMost`, which nobody believed, does it start from `atLeast` again.
   *  @param make signs the statement of that number. */
  putNext(
    kmeId: KmeId,
    bounds: { readonly atLeast: number; readonly atMost: number },
    make: (sequence: number) => SignedStatement,
  ): Promise<StoredStatement>
  /** Forgets KMEs. */
  remove(kmeIds: readonly KmeId[]): Promise<void>
}
