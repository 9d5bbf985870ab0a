-- Counts points of one window: all of them or none, so that a request that is refused costs nothing.
-- KEYS[1]  the counter
-- ARGV     points (negative: given back), window in whole seconds (unused), most points in a window, window in seconds
-- Returns  points counted with these, milliseconds left of the window. Not counted when that is more than the most.
local points = tonumber(ARGV[1])
local most = tonumber(ARGV[3])
local leftMs = redis.call('PTTL', KEYS[1])
local counted = 0
if leftMs > 0 then
  counted = tonumber(redis.call('GET', KEYS[1]))
else
  leftMs = math.ceil(tonumber(ARGV[4]) * 1000)
end
if points > 0 and counted + points > most then
  return { counted + points, leftMs }
end
counted = math.max(0, counted + points)
redis.call('SET', KEYS[1], counted, 'PX', leftMs)
return { counted, leftMs }
