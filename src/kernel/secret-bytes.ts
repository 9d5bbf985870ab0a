/** Key material that cannot be printed, serialised or turned into a string, and can be wiped.
 *  Holds: the bytes live in one buffer of their own (no shared slab) until `wipe`. */
import { inspect } from 'node:util'

export class SecretBytes implements Disposable {
  readonly #bytes: Buffer
  #wiped = false

  private constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  /** Takes over `bytes`: they are copied into a buffer of their own and the original is zeroed. */
  static take(bytes: Uint8Array): SecretBytes {
    const own = Buffer.allocUnsafeSlow(bytes.length)
    own.set(bytes)
    bytes.fill(0)
    return new SecretBytes(own)
  }

  /** Takes over `bytes` as they are, without a copy; the caller must not keep or share them. */
  static adopt(bytes: Buffer): SecretBytes {
    return new SecretBytes(bytes)
  }

  get lengthBytes(): number {
    return this.#bytes.length
  }

  /** Lends the bytes for the length of one call. The borrower must not keep them.
   *  @throws Error when already wiped. */
  use<T>(borrow: (bytes: Buffer) => T): T {
    if (this.#wiped) throw new Error('secret bytes were used after they were wiped')
    return borrow(this.#bytes)
  }

  wipe(): void {
    this.#bytes.fill(0)
    this.#wiped = true
  }

  [Symbol.dispose](): void {
    this.wipe()
  }

  toJSON(): string {
    return `[secret ${this.#bytes.length} bytes]`
  }

  toString(): string {
    return this.toJSON()
  }

  [inspect.custom](): string {
    return this.toJSON()
  }
}
