/** Takes key material out of JSON text before the text is parsed, so that it never becomes a string. */

const QUOTE = 0x22
const BACKSLASH = 0x5c
const SLASH = 0x2f
const COMMA = 0x2c
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d

/** Finds the value of each member `member` of the objects in the member `array` of the outermost object, copies it out and
 *  overwrites it with spaces. Broken JSON ends the scan early; the parser behind it reports that. An unusual spelling of a name hides its
 *  value from the scan: whoever parses the rest refuses a value that is not blank.
 *  @returns the texts, which the caller zeroes. */
export const takeSecretTexts = (json: Buffer, array: string, member: string): Buffer[] => {
  const arrayName = Buffer.from(array)
  const memberName = Buffer.from(member)
  const found: Buffer[] = []
  const open: number[] = []
  /** The newest member name on each level. */
  const names: Buffer[] = []
  let nameFollows = false
  for (let at = 0; at < json.length; at += 1) {
    const byte = json[at]
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      open.push(byte)
      nameFollows = byte === OPEN_OBJECT
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      open.pop()
      nameFollows = false
    } else if (byte === COMMA) {
      nameFollows = open.at(-1) === OPEN_OBJECT
    } else if (byte === QUOTE) {
      const start = at + 1
      at = endOfString(json, start)
      const text = json.subarray(start, at)
      if (nameFollows) names[open.length] = text
      else if (open.length === 3 && open[1] === OPEN_ARRAY && names[1]?.equals(arrayName) && names[3]?.equals(memberName)) {
        found.push(withoutEscapes(text))
        text.fill(' ')
      }
      nameFollows = false
    }
  }
  return found
}

const endOfString = (json: Buffer, start: number): number => {
  let at = start
  while (at < json.length && json[at] !== QUOTE) at += json[at] === BACKSLASH ? 2 : 1
  return at
}

/** A copy in which `\/` is `/`, the one escape that JSON writers use in base64. */
const withoutEscapes = (text: Buffer): Buffer => {
  const copy = Buffer.allocUnsafeSlow(text.length)
  let length = 0
  for (let i = 0; i < text.length; i += 1) {
    if (text[i] === BACKSLASH && text[i + 1] === SLASH) i += 1
    copy[length++] = text[i] as number
  }
  return copy.subarray(0, length)
}
