/** A Key container as enc_keys answers it, with constant 256-bit keys: its length is the length of every such answer. */
export const containerOf = (number: number): Buffer => {
  const key = { key_ID: '00000000-0000-4000-8000-000000000000', key: Buffer.alloc(32).toString('base64') }
  return Buffer.from(JSON.stringify({ keys: Array.from({ length: number }, () => key) }))
}
