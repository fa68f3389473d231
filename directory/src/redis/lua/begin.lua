-- What every step begins with: the time, what is known of the whole, and the tools of the others.
--
-- KEYS  meta
-- ARGV  prefix, time in µs ('' = the server's), incarnation if there is none yet, name of the step,
--       and what the step takes
--
-- Numbers that reach 2^53 travel as decimal text; those of 64 bits are hexadecimal text throughout.
-- A record is read and checked before the first write, so that a step is taken whole or not at all.
local PREFIX, TIME, FRESH, STEP = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local META = KEYS[1]
local LIVE, ENDED, DUE = PREFIX .. 'live', PREFIX .. 'ended', PREFIX .. 'due'
local CODES, LISTED, JWKS = PREFIX .. 'codes', PREFIX .. 'listed', PREFIX .. 'jwks'
local OWNED = PREFIX .. 'owned'

local argument = 4
local function take()
    argument = argument + 1
    return ARGV[argument]
end

-- This key holds what no relay wrote.
local function garbage(key, why)
    error({ err = 'GARBAGE ' .. key .. ' ' .. why })
end

-- The reply; nil if the key is of another type than we make it.
local function try(command, key, ...)
    local reply = redis.pcall(command, key, ...)
    if type(reply) == 'table' and reply.err then
        if reply.err:find('WRONGTYPE', 1, true) then
            return nil
        end
        error(reply)
    end
    return reply
end

local function call(command, key, ...)
    local reply = try(command, key, ...)
    if reply == nil then
        garbage(key, 'is of the wrong type')
    end
    return reply
end

-- A whole number up to 2^53 - 1, or nil.
local function number(text)
    if not text or #text > 16 or not text:match('^%d+$') then
        return nil
    end
    local n = tonumber(text)
    return n <= EPOCH_MAX and n or nil
end

local function decimal(n)
    return string.format('%.0f', n)
end

local function hex(text, digits)
    return text and #text == digits and text:match('^[0-9a-f]+$')
end

local meta = call('HMGET', META, 'incarnation', 'now', 'behind', 'issued')
-- Lost with everything else: whoever sees it change knows.
local incarnation = meta[1]
if not hex(incarnation, 16) then
    incarnation = FRESH
    call('HSET', META, 'incarnation', incarnation)
end

local clock = number(TIME)
if not clock then
    local time = redis.call('TIME')
    clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
-- From where the clock is set back, or that of another server takes its place and is behind it, time
-- goes on at its pace, however far back that is: a lease is a term and not a date. Once the clock has
-- caught up with the time, or is set right, it is the time again. One that jumps ahead ends every
-- lease, and its owners make themselves known again. Every step keeps the time, those that only
-- read too: from one to the next is all of it that a clock set back between them can take.
local latest = number(meta[2]) or 0
local now = clock
if clock < latest then
    now = math.max(latest, clock + (number(meta[3]) or 0))
end

-- The highest epoch given out. It can be ahead of the time by what was promised, which is held to
-- EPOCH_AHEAD_MAX, and some: what is further ahead is no relay's doing, and would be in force for as
-- long.
local issued = number(meta[4]) or 0
if issued > now + 2 * EPOCH_AHEAD_MAX then
    issued = 0
end

local function tell(change)
    redis.call('PUBLISH', PREFIX .. 'hints', change)
end

local function next_epoch(floor)
    issued = math.max(floor + 1, issued + 1, now)
    call('HSET', META, 'issued', decimal(issued))
    return decimal(issued)
end
