-- Counts points of one window: all of them or none, so that a request that is refused costs nothing.
-- KEYS[1]  the counter
-- ARGV     points (negative: given back), window in whole seconds (unused), most points in a window, window in seconds
-- Returns  points counted with these, milliseconds left of the window. Not counted when that is more than the most.
local points = tonumber(ARGV[1])
local most = tonumber(ARGV[3])
local windowMs = math.ceil(tonumber(ARGV[4]) * 1000)
local leftMs = redis.call('PTTL', KEYS[1])
local counted = leftMs > 0 and redis.call('TYPE', KEYS[1]).ok == 'string' and tonumber(redis.call('GET', KEYS[1]))
-- What is no count of this window was put there by somebody else.
if not counted or not (counted >= 0 and counted <= most) or leftMs > windowMs then
  counted = 0
  leftMs = windowMs
end
if points > 0 and counted + points > most then
  return { counted + points, leftMs }
end
counted = math.max(0, counted + points)
redis.call('SET', KEYS[1], counted, 'PX', leftMs)
return { counted, leftMs }
